// moebius tokenize: text to ids and back. Needs only the tokenizer's files.
#include <cstdio>
#include <memory>

#include <fmt/format.h>

#include "models/checkpoint.h"
#include "models/tokenizer.h"
#include "tools/command.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

struct Options {
  std::string model, file = "-";
  bool decode = false, json = false, add_special = false;
};

Result<std::string> output(const Options& options) {
  std::string dir;
  if (options.model.empty()) {
    MOEBIUS_ASSIGN(dir, default_model_dir());
  } else {
    MOEBIUS_ASSIGN(dir, resolve_model_dir(options.model, hub_cache_dir()));
  }
  MOEBIUS_ASSIGN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::open(dir));
  MOEBIUS_ASSIGN(const std::string text, read_input(options.file));
  if (options.decode) {
    MOEBIUS_ASSIGN(const std::vector<int32_t> ids, parse_ids(text, "the input"));
    MOEBIUS_ASSIGN(std::string decoded, tokenizer->decode(ids));
    return options.json ? to_text({{"text", decoded}}) + "\n" : decoded;
  }
  EncodeOptions encode;
  encode.add_special = options.add_special;
  MOEBIUS_ASSIGN(const std::vector<int32_t> ids, tokenizer->encode(text, encode));
  return options.json ? to_text({{"ids", ids}}) + "\n" : fmt::format("{}\n", fmt::join(ids, " "));
}

}  // namespace

void add_tokenize(CLI::App& app, Run& run) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("tokenize", "turn text into token ids, or ids into text");
  command->option_defaults()->take_last();
  command->add_option("-m,--model", options->model,
                      "folder with tokenizer files, or a Hugging Face id already in the cache "
                      "(default: the shipped model)");
  command->add_option("-f,--file", options->file, "input, - for standard input (default)");
  command->add_flag("--decode", options->decode,
                    "read ids (separated by spaces or commas, or JSON) and print exactly their text");
  command->add_flag("--json", options->json, "print {\"ids\": [...]}, or {\"text\": ...} with --decode");
  command->add_flag("--add-special", options->add_special,
                    "add the ids the tokenizer puts around a text, such as the beginning of a sequence");
  command->callback([options, &run] {
    run = [options] {
      const Result<std::string> text = output(*options);
      if (!text.ok()) return fail(text.status());
      return print_output(*text);
    };
  });
}

}  // namespace moebius
