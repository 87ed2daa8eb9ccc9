// Engine::generate: from prompt to answer on one session.

#include "engine/generator.h"

namespace moebius {

Result<GenerateStats> Engine::generate(Session& session, std::span<const int32_t> prompt,
                                       const GenerateOptions& options, const OnPiece& on_piece,
                                       const Session::Progress& progress) {
  MOEBIUS_TRY(options.sampling.validate(config().vocab));
  const auto started = std::chrono::steady_clock::now();
  if (const Status status = session.sync(prompt, progress); !status.ok()) {
    if (status.code() != Code::kCancelled) return status;
    GenerateStats stats;
    stats.prompt_tokens = std::ssize(prompt);
    stats.finish = FinishReason::kCancelled;
    return stats;
  }
  const double prefill_s = seconds_since(started);
  const int64_t reused = session.reused();

  const auto decode_started = std::chrono::steady_clock::now();
  Generator generator(*this, prompt, options);
  while (true) {
    MOEBIUS_ASSIGN(const std::optional<int32_t> id, generator.advance(session.logits(), on_piece));
    if (!id) break;
    MOEBIUS_TRY(session.append(*id));
  }
  GenerateStats stats = generator.stats();
  stats.reused_tokens = reused, stats.prefill_s = prefill_s;
  stats.decode_s = seconds_since(decode_started);
  return stats;
}

}  // namespace moebius
