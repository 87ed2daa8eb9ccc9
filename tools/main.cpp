// moebius: one program, one subcommand a task. See README.md.
#include <algorithm>
#include <csignal>

#include <fmt/format.h>

#include "tools/command.h"
#include "tools/settings.h"

int main(int argc, char** argv, char** environment) {
  using namespace moebius;
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe or connection is an error to report, not a reason to die
  CLI::App app("moebius: run, serve and examine Mixture-of-Experts language models on this machine");
  app.set_version_flag("--version", MOEBIUS_VERSION);
  app.require_subcommand(1);
  app.fallthrough(false);

  Run run;
  add_chat(app, run);
  add_serve(app, run);
  add_eval(app, run);
  add_logits(app, run);
  add_synth(app, run);
  add_corpus(app, run);
  add_train(app, run);
  add_finetune(app, run);
  add_merge(app, run);
  add_tenp(app, run);
  add_zeda(app, run);
  add_quantize(app, run);
  add_inspect(app, run);
  add_plan(app, run);
  add_tokenize(app, run);
  add_template(app, run);
  add_bench(app, run);
  add_doctor(app, run);

  std::vector<std::string> variables, from;
  for (char** entry = environment; *entry != nullptr; ++entry) variables.emplace_back(*entry);
  Result<std::vector<std::string>> arguments = complete_arguments({argv + 1, argv + argc}, variables, from);
  if (!arguments.ok()) {
    fail(arguments.status());
    return 2;
  }
  for (const std::string& line : from) fmt::print(stderr, "{}\n", line);
  std::reverse(arguments->begin(), arguments->end());  // as the parser takes them
  try {
    app.parse(*arguments);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return run();
}
