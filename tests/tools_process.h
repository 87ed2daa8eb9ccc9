// Running the program as a user would: through pipes, and in a pseudo-terminal. No shell is involved.
#pragma once

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

namespace moebius::process {

using Args = std::vector<std::string>;
using Environment = std::map<std::string, std::string>;

constexpr int kPatienceMs = 60'000;  // sanitizer builds and busy machines; a good run never waits

// A folder of this test program, emptied when it starts and removed when it ends.
class Scratch {
 public:
  Scratch() {
    std::string pattern = std::filesystem::temp_directory_path() / "moebius_test_XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string file(const std::string& name) const { return path_ / name; }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(file(name), std::ios::binary) << text;
    return file(name);
  }

 private:
  std::filesystem::path path_;
};

inline std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// In a child process: becomes the program, or another one.
[[noreturn]] inline void become(const Args& args, const Environment& environment,
                                const std::string& program = MOEBIUS_BINARY) {
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  execvp(program.c_str(), argv.data());
  _exit(126);
}

struct Finished {
  int code = -1;  // 128 + signal if one ended it
  std::string out, err;
};

inline int wait_for(pid_t pid) {
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

inline Finished run(const Args& args, const std::string& input = "", const Environment& environment = {},
                    const std::string& program = MOEBIUS_BINARY) {
  int in[2], out[2], err[2];
  if (pipe(in) != 0 || pipe(out) != 0 || pipe(err) != 0) return {};
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(in[0], 0), dup2(out[1], 1), dup2(err[1], 2);
    for (int* ends : {in, out, err}) close(ends[0]), close(ends[1]);
    become(args, environment, program);
  }
  close(in[0]), close(out[1]), close(err[1]);
  std::signal(SIGPIPE, SIG_IGN);
  fcntl(in[1], F_SETFL, O_NONBLOCK);
  Finished result;
  size_t sent = 0;
  pollfd wanted[] = {{in[1], POLLOUT, 0}, {out[0], POLLIN, 0}, {err[0], POLLIN, 0}};
  while (wanted[1].fd >= 0 || wanted[2].fd >= 0) {
    if (wanted[0].fd >= 0 && sent == input.size()) close(in[1]), wanted[0].fd = -1;
    if (poll(wanted, 3, kPatienceMs) <= 0) {
      kill(pid, SIGKILL);
      ADD_FAILURE() << "no output and no end for a minute";
      break;
    }
    if (wanted[0].fd >= 0 && wanted[0].revents != 0) {
      const ssize_t count = write(in[1], input.data() + sent, input.size() - sent);
      sent =
          count > 0 ? sent + static_cast<size_t>(count) : input.size();  // it may not read its input at all
    }
    for (int i : {1, 2}) {
      if (wanted[i].fd < 0 || wanted[i].revents == 0) continue;
      char block[1 << 14];
      const ssize_t count = read(wanted[i].fd, block, sizeof block);
      if (count > 0) (i == 1 ? result.out : result.err).append(block, static_cast<size_t>(count));
      if (count <= 0) wanted[i].fd = -1;
    }
  }
  if (wanted[0].fd >= 0) close(in[1]);
  close(out[0]), close(err[0]);
  result.code = wait_for(pid);
  return result;
}

// The program in a terminal. Keys count as typed at a prompt only once that prompt was expected.
class Terminal {
 public:
  Terminal(const Args& args, const Environment& environment) {
    winsize size{24, 200, 0, 0};
    pid_ = forkpty(&fd_, nullptr, nullptr, &size);
    if (pid_ == 0) become(args, environment);
  }
  ~Terminal() {
    if (pid_ > 0) kill(pid_, SIGKILL), wait_for(pid_);
    close(fd_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  void type(const std::string& keys) {
    ASSERT_EQ(write(fd_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }

  // Waits until text appears after what was expected before; returns all up to its end.
  std::string expect(const std::string& text) {
    while (true) {
      if (const size_t at = seen_.find(text, consumed_); at != std::string::npos) {
        const std::string before = seen_.substr(consumed_, at + text.size() - consumed_);
        consumed_ = at + text.size();
        return before;
      }
      if (!more()) break;
    }
    ADD_FAILURE() << "'" << text << "' did not appear; the terminal shows: " << seen_.substr(consumed_);
    return "";
  }

  // The exit code, after everything it still says.
  int end() {
    while (more()) {
    }
    if (silent_) {
      ADD_FAILURE() << "no end for a minute; the terminal shows: " << seen_.substr(consumed_);
      kill(pid_, SIGKILL);
    }
    return wait_for(std::exchange(pid_, -1));
  }

  const std::string& seen() const { return seen_; }
  void send_signal(int signal) const { kill(pid_, signal); }

 private:
  bool more() {
    pollfd wanted{fd_, POLLIN, 0};
    char block[1 << 12];
    silent_ = poll(&wanted, 1, kPatienceMs) <= 0;
    if (silent_) return false;
    const ssize_t count = read(fd_, block, sizeof block);
    if (count <= 0) return false;
    seen_.append(block, static_cast<size_t>(count));
    return true;
  }

  int fd_ = -1;
  pid_t pid_ = -1;
  bool silent_ = false;  // patience ran out
  std::string seen_;
  size_t consumed_ = 0;
};

}  // namespace moebius::process
