// moebius logits: the model's raw numbers for given ids, to compare with any reference.
#include <algorithm>
#include <memory>

#include <fmt/format.h>

#include "engine/engine.h"
#include "models/file_io.h"
#include "models/safetensors.h"
#include "tools/command.h"
#include "tools/progress.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

struct Options {
  EngineOptions engine;
  std::string ids, ids_file, out;
  bool json = false;
};

struct Row {
  int32_t id = 0;    // at this position
  int32_t next = 0;  // the most likely one after it
  float logit = 0, logprob = 0;
};

std::string render(const Options& options, const std::vector<Row>& rows, int64_t vocab) {
  if (!options.json) {
    std::string text = "position\tid\tnext\tlogprob\n";
    for (size_t i = 0; i < rows.size(); ++i) {
      text += fmt::format("{}\t{}\t{}\t{:.4f}\n", i, rows[i].id, rows[i].next, rows[i].logprob);
    }
    return text;
  }
  ordered_json out = {{"n", rows.size()}, {"vocab", vocab}};
  for (const Row& row : rows) {
    out["argmax"].push_back(row.next);
    out["argmax_logit"].push_back(row.logit);
    out["argmax_logprob"].push_back(row.logprob);
  }
  if (!options.out.empty()) out["out"] = options.out;
  return to_text(out) + "\n";
}

Result<std::vector<int32_t>> read_ids(const Options& options) {
  if (options.ids_file.empty()) return parse_ids(options.ids, "--ids");
  MOEBIUS_ASSIGN(const std::string text, read_input(options.ids_file));
  return parse_ids(text, fmt::format("'{}'", printable(options.ids_file)));
}

Result<std::string> compute(const Options& options) {
  MOEBIUS_ASSIGN(const std::vector<int32_t> ids, read_ids(options));
  if (ids.empty()) return invalid("no ids were given; pass at least one with --ids or --ids-file");
  MOEBIUS_ASSIGN(const std::unique_ptr<Engine> engine, Engine::open(options.engine));
  const int64_t vocab = engine->config().vocab;
  MOEBIUS_TRY(check_ids(ids, vocab));
  MOEBIUS_ASSIGN(const std::unique_ptr<Session> session, engine->new_session());

  const int64_t n = static_cast<int64_t>(ids.size());
  std::unique_ptr<SafetensorsWriter> writer;
  if (!options.out.empty()) {
    writer = std::make_unique<SafetensorsWriter>(options.out);
    writer->declare("logits", DType::kF32, {n, vocab});
  }
  std::vector<Row> rows;
  ProgressBar bar("logits");
  MOEBIUS_TRY(session->sync_all(ids, [&](int64_t first, std::span<const float> logits) -> Status {
    const size_t width = static_cast<size_t>(vocab);
    for (size_t at = 0; at + width <= logits.size(); at += width) {
      const std::span<const float> row = logits.subspan(at, width);
      const TokenProbability best = top_log_probabilities(row, 1).front();
      rows.push_back({ids[rows.size()], best.id, row[static_cast<size_t>(best.id)], best.logprob});
    }
    bar.update(static_cast<int64_t>(rows.size()), n);
    return writer ? writer->append(logits.data(), logits.size_bytes()) : Status();
  }));
  if (writer) MOEBIUS_TRY(writer->finish());
  return render(options, rows, vocab);
}

}  // namespace

void add_logits(CLI::App& app, Run& run) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("logits", "compute the logits after every token of a sequence of ids");
  command->option_defaults()->take_last();
  add_engine_options(*command, options->engine);
  auto* group = command->add_option_group("input");
  group->add_option("--ids", options->ids, "token ids, for example 1,2,3");
  group->add_option("--ids-file", options->ids_file,
                    "file of ids separated by spaces or commas, or JSON; - for standard input");
  group->require_option(1);
  command->add_option("-o,--out", options->out,
                      "write a safetensors file with one tensor, `logits`, float32 [n, vocabulary]");
  command->add_flag(
      "--json", options->json,
      "print {\"n\", \"vocab\", \"argmax\", \"argmax_logit\", \"argmax_logprob\"} in place of a table; "
      "the full logits are in --out only");
  command->callback([options, &run] {
    run = [options] {
      const Result<std::string> text = compute(*options);
      return text.ok() ? print_output(*text) : fail(text.status());
    };
  });
}

}  // namespace moebius
