#include "server/files/training_file.h"

namespace moebius {

Result<DatasetCounts> check_training_file(const Engine& engine, const std::string& path,
                                          const std::string& name, int threads) {
  MOEBIUS_ASSIGN(const PromptRenderer prompts, PromptRenderer::open(engine.options().model));
  DatasetOptions how;
  how.max_tokens = engine.config().context;
  how.too_long = DatasetOptions::TooLong::kCut;  // how long an example may be is for the job to say
  how.vocab = engine.config().vocab;
  how.stop_ids = engine.generation().eos_ids;
  how.threads = threads;
  how.name = name;
  return check_dataset(path, engine.tokenizer(), prompts, how);
}

}  // namespace moebius
