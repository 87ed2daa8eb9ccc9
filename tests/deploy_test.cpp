// What deploy/ says, against the program and, where they are installed, the tools that read such files.
#include <gtest/gtest.h>

#include <algorithm>
#include <regex>
#include <set>

#include <nlohmann/json.hpp>

#include "tests/serving.h"

namespace moebius {
namespace {

using process::Finished;
using process::read_file;
using process::run;
using process::Scratch;

const std::vector<std::string>& files() {
  static const auto* all =
      new std::vector<std::string>{"deploy/Dockerfile", "deploy/moebius.service", "deploy/kubernetes.yaml"};
  return *all;
}

std::set<std::string> found_in(const std::string& text, const std::string& pattern) {
  const std::regex expression(pattern);
  std::set<std::string> out;
  for (std::sregex_iterator at(text.begin(), text.end(), expression), end; at != end; ++at)
    out.insert((*at)[1]);
  return out;
}

// The options that `moebius serve` has, without their dashes.
std::set<std::string> options() { return found_in(run({"serve", "--help"}).out, "--([a-z][a-z0-9-]+)"); }

TEST(Deploy, NamesOptionsThatExist) {
  const std::set<std::string> known = options();
  ASSERT_GT(known.size(), 30u);
  // Of other programs.
  const std::set<std::string> others = {
      "read-only",    "cap-drop",  "security-opt", "no-install-recommends", "build", "target",
      "from",         "from-file", "system",       "no-create-home",        "now",   "interval",
      "start-period", "retries"};
  for (const std::string& file : files()) {
    const std::string text = read_file(file);
    ASSERT_FALSE(text.empty()) << file;
    int mentioned = 0;
    for (const std::string& option : found_in(text, "[^-a-z]--([a-z][a-z0-9-]+)")) {
      if (others.count(option) > 0) continue;
      EXPECT_EQ(known.count(option), 1u) << file << ": --" << option;
      ++mentioned;
    }
    for (std::string variable : found_in(text, "MOEBIUS_([A-Z][A-Z_]*[A-Z])")) {
      if (variable == "CUDA") continue;  // of the build
      for (char& c : variable)
        c = c == '_' ? '-' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      EXPECT_EQ(known.count(variable), 1u) << file << ": " << variable;
      ++mentioned;
    }
    EXPECT_GT(mentioned, 1) << file;
    for (const std::string& path : found_in(text, "path: (/[a-z]+)[,}]"))
      EXPECT_TRUE(path == "/ready" || path == "/health") << path;
  }
}

// As the container starts it, and as it is asked whether it is well.
TEST(Deploy, TheContainersHealthIsAskedFor) {
  const std::string text = read_file("deploy/Dockerfile");
  const size_t begin = text.find("\"exec 3<>"), end = text.find("\"]", begin);
  ASSERT_NE(end, std::string::npos);
  const std::string command = nlohmann::json::parse(text.substr(begin, end + 1 - begin));
  const Scratch scratch;
  Serving serving({}, {{"MOEBIUS_HOST", "0.0.0.0"},
                       {"MOEBIUS_API_KEY_FILE", scratch.write("keys", "k\n")},
                       {"MOEBIUS_LOG_JSON", "1"},
                       {"XDG_DATA_HOME", "/nowhere"}});
  const process::Environment environment = {{"MOEBIUS_PORT", std::to_string(serving.port())}};
  EXPECT_EQ(run({"-c", command}, "", environment, "bash").code, 0);
  EXPECT_EQ(serving.client().Get("/v1/models")->status, 401);
  EXPECT_EQ(serving.end(), 0);
  EXPECT_NE(run({"-c", command}, "", environment, "bash").code, 0) << "nobody is there any more";
}

TEST(Deploy, TheContainerHasEveryLibrary) {
  if (run({"--version"}, "", {}, "dpkg-query").code != 0) GTEST_SKIP() << "not a Debian system";
  const std::string text = read_file("deploy/Dockerfile");
  const std::string installed = text.substr(text.find("FROM debian:12-slim\n"));
  // The program's own; what those need comes with them.
  for (const std::string& library :
       found_in(run({"-d", MOEBIUS_BINARY}, "", {}, "readelf").out, "NEEDED.*\\[(.*)\\]")) {
    const std::set<std::string> owners =
        found_in(run({"-S", "*/" + library}, "", {}, "dpkg-query").out, "(?:^|\n)([^:, ]+)");
    if (owners.empty() || owners.count("libc6") > 0 || owners.count("libgcc-s1") > 0)
      continue;  // built here; base
    EXPECT_TRUE(std::any_of(
        owners.begin(), owners.end(),
        [&](const std::string& package) { return installed.find(package + " ") != std::string::npos; }))
        << library << " is of " << *owners.begin();
  }
}

TEST(Deploy, SystemdTakesTheUnit) {
  if (run({"--version"}, "", {}, "systemd-analyze").code != 0)
    GTEST_SKIP() << "systemd-analyze is not installed";
  std::string unit = read_file("deploy/moebius.service");
  const std::string installed = "/usr/local/bin/moebius serve";
  const size_t at = unit.find("ExecStart=" + installed);
  ASSERT_NE(at, std::string::npos);
  unit.replace(at + 10, installed.size(), std::string(MOEBIUS_BINARY) + " serve");
  const Scratch scratch;
  const std::string path = scratch.write("moebius.service", unit);
  const Finished verified = run({"verify", "--man=no", path}, "", {}, "systemd-analyze");
  EXPECT_EQ(verified.code, 0) << verified.err;
  EXPECT_EQ(verified.err.find("moebius.service:"), std::string::npos) << verified.err;
  // Its exposure, from 0 to 10: what a service without any sandbox has is 9.6.
  const Finished security =
      run({"security", "--no-pager", "--offline=true", "--threshold=20", path}, "", {}, "systemd-analyze");
  EXPECT_EQ(security.code, 0) << security.out;
}

TEST(Deploy, TheManifestIsYaml) {
  const char* const kRead = R"(
import sys
try:
    import yaml
except ImportError:
    sys.exit(77)
import json
print(json.dumps(list(yaml.safe_load_all(open("deploy/kubernetes.yaml")))))
)";
  const Finished read = run({"-c", kRead}, "", {}, "python3");
  if (read.code == 77 || read.code == 126) GTEST_SKIP() << "Python's yaml is not installed";
  ASSERT_EQ(read.code, 0) << read.err;
  const auto documents = nlohmann::json::parse(read.out);
  ASSERT_EQ(documents.size(), 3u);
  const auto& container = documents[0]["spec"]["template"]["spec"]["containers"][0];
  EXPECT_EQ(container["securityContext"]["readOnlyRootFilesystem"], true);
  for (const char* probe : {"startupProbe", "readinessProbe"})
    EXPECT_EQ(container[probe]["httpGet"]["path"], "/ready") << probe;
  EXPECT_EQ(container["livenessProbe"]["httpGet"]["path"], "/health");
  // The arguments and the environment parse: what fails is that there is no such model.
  process::Args args = {"serve"};
  for (const auto& arg : container["args"]) args.push_back(arg);
  process::Environment environment;
  for (const auto& entry : container["env"]) environment[entry["name"]] = entry["value"];
  const Scratch scratch;
  environment["MOEBIUS_API_KEY_FILE"] = scratch.write("keys", "k\n");
  const Finished started = run(args, "", environment);
  EXPECT_EQ(started.code, 1) << started.err;
  EXPECT_NE(started.err.find("/models/Moonlight-16B-A3B-Instruct"), std::string::npos) << started.err;
}

}  // namespace
}  // namespace moebius
