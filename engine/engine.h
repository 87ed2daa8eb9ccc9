// Engine: the door through which tools and the server use a model.
//
// An Engine owns an opened model; a Session is one mutable timeline of tokens with its cache. Several engines
// and sessions may live in one process; an engine outlives its sessions. One thread at a time may open or use
// an engine's sessions and call generate(); the const members only read what never changes and may be called
// from any thread.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "engine/answer_stream.h"
#include "engine/cache_miss.h"
#include "engine/device_choice.h"
#include "engine/expert_use.h"
#include "engine/options.h"
#include "engine/placement.h"
#include "engine/sampler.h"
#include "kernels/op_meter.h"
#include "models/config.h"
#include "models/constraint/constraint.h"
#include "models/tokenizer.h"

namespace moebius {

class BatchAdapter;  // engine/batch_adapter.h
struct Weights;      // models/weights.h
class Engine;

class Session {
 public:
  ~Session();

  // Called between two slices of a long computation with the tokens done and in total; false cancels
  // (kCancelled), and the session keeps what was computed.
  using Progress = std::function<bool(int64_t done, int64_t total)>;

  // Makes the timeline equal ids (at least one), re-using the longest common prefix of what it holds, and
  // leaves the logits after the last token. kInvalid: an id out of range, or more ids than the context holds.
  Status sync(std::span<const int32_t> ids, const Progress& progress = {});
  Status append(int32_t id);

  // Lengthens the timeline to count tokens by repeating it, cache and all: for benches, since what a cache
  // holds makes no step faster or slower. The timeline holds a token; logits() is empty afterwards.
  Status repeat(int64_t count);

  // As sync, but recomputes every position and hands out the logits of all: rows(first position, logits [n,
  // vocab]).
  using Rows = std::function<Status(int64_t first, std::span<const float> logits)>;
  Status sync_all(std::span<const int32_t> ids, const Rows& rows);

  std::span<const float> logits() const;    // [vocab], after the last token; empty before the first sync
  std::span<const int32_t> tokens() const;  // the timeline
  int64_t reused() const;                   // tokens the last sync did not have to compute
  int64_t context() const;                  // tokens it can hold

  // The timeline and its cache to a file, atomically, and back, exactly. kInvalid: a file of another model or
  // cache type.
  Status save(const std::string& path) const;
  Status restore(const std::string& path);

  struct Impl;  // engine/session.h
  Impl& impl() { return *impl_; }

 private:
  friend class Engine;
  explicit Session(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

enum class FinishReason : uint8_t { kStop, kLength, kCancelled };

struct GenerateOptions {
  SamplingParams sampling;
  int64_t max_tokens = -1;        // -1: until the context is full
  std::vector<std::string> stop;  // the answer ends before the first of these
  bool ignore_eos = false;
  int top_logprobs = -1;  // -1: none; 0: of the chosen token alone; else that many alternatives too
  std::shared_ptr<const AnswerForm> form;  // null: the answer is plain text, markup included
  std::shared_ptr<const Constraint>
      constraint;  // what is said must satisfy it, thinking apart; null: anything
};

// One piece of an answer. text is complete characters with no part of a stop string and may be empty while
// bytes or a possible stop string are held back; the concatenation of all texts is the answer. With a form,
// text is the content, and thinking and tool calls come apart.
struct Piece {
  std::string_view text, reasoning;
  std::span<const CallPiece> calls;
  int32_t id = -1;                                 // -1: the rest of held-back text at the end
  TokenProbability chosen;                         // with top_logprobs >= 0
  std::span<const TokenProbability> alternatives;  // with top_logprobs > 0
};

struct GenerateStats {
  FinishReason finish = FinishReason::kStop;
  std::string matched_stop;  // the stop string that ended it; "" for a stop id
  int64_t prompt_tokens = 0, reused_tokens = 0, answer_tokens = 0;  // answer_tokens counts a final stop id
  int64_t reasoning_tokens = 0;                                     // of the answer's, with a form
  CacheMiss miss = CacheMiss::kNone;  // why reused_tokens are not more; of the scheduler's answers
  double prefill_s = 0, decode_s = 0;
};

class Engine {
 public:
  static Result<std::unique_ptr<Engine>> open(const EngineOptions& options);
  // On another device in place of options.device, which makes a backend with so many bytes of memory.
  static Result<std::unique_ptr<Engine>> open(const EngineOptions& options, const MakeDevice& device);
  // A model in memory on the host, which may change between steps (what was cached before is then of the old
  // one): what options.model names gives tokenizer, template and defaults. Both must outlive the engine.
  // options.adapter must be "".
  static Result<std::unique_ptr<Engine>> open(const EngineOptions& options, const ModelConfig& config,
                                              const Weights& weights);
  ~Engine();

  const ModelConfig& config() const;
  const GenerationConfig& generation() const;
  bool has_tokenizer() const;  // false: only ids go in and out (`moebius logits`)
  const Tokenizer& tokenizer() const;
  const EngineOptions& options() const;  // with defaults filled in: context, threads, model folder
  const ModelPlan* plan() const;  // that the device was filled by; null on the host, or without experts
  std::string describe() const;   // one line: model, format, bytes, context, device
  // Blocks until options.load has done what it does while the model already runs.
  void wait_loaded();
  // The longest file of weights as it lies in memory, for probes; empty for a model in memory.
  std::span<const char> weights_memory() const;
  const std::vector<std::string>& notes() const;  // lines to log at start: skipped tensors, random weights
  SamplingParams default_sampling() const;        // from generation_config.json
  // [layer], when experts are both on the device and on the host; else empty.
  std::vector<LayerUse> expert_use() const;
  // Of the layers with experts: how often each was chosen, and where it is. On a device that has all experts
  // nobody counts, unless the model skips some.
  std::vector<ExpertLayer> expert_map() const;

  // How this model marks thinking and tool calls.
  const ChatMarkup& markup() const;
  // A grammar over this model's vocabulary. Takes milliseconds, and more the first time.
  Result<std::shared_ptr<const Constraint>> constrain(const Grammar& grammar) const;
  // What each operation took since the last call, with EngineOptions::meter on the host; else empty.
  OpTotals take_op_totals();

  // The LoRA adapter in a folder, for sessions that want it while others of the same batch use another or
  // none. From any thread.
  Result<std::shared_ptr<BatchAdapter>> open_adapter(const std::string& dir) const;

  // adapter: of this engine; null: the model as it is. kNoMemory: the device has no room for the adapter.
  Result<std::unique_ptr<Session>> new_session(std::shared_ptr<BatchAdapter> adapter = nullptr);

  // The prompt of a conversation by the model's own template. request: {"messages": [...], "tools": [...]
  // (optional), plus template variables}. kInvalid: the template's own complaint; kNotFound: the model has no
  // template.
  Result<std::string> render_chat(const nlohmann::ordered_json& request, bool generation_prompt = true) const;

  // One token more on each of several sessions of this engine, all of them different, in one pass over the
  // weights; each has its logits afterwards. Where the plan says that it pays, in two groups, of which one is
  // on the device while the host computes its experts for the other. As Session::append for each: after
  // kInvalid or kNoMemory all are as before.
  Status append(std::span<Session* const> sessions, std::span<const int32_t> ids);

  // Syncs the session to the prompt and generates until a stop id, a stop string, max_tokens, the end of the
  // context or `on_piece` returning false. progress is called during the prefill. kInvalid: also a constraint
  // that cannot be followed any further.
  using OnPiece = std::function<bool(const Piece&)>;
  Result<GenerateStats> generate(Session& session, std::span<const int32_t> prompt,
                                 const GenerateOptions& options, const OnPiece& on_piece,
                                 const Session::Progress& progress = {});

 private:
  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  static Result<std::unique_ptr<Engine>> open(std::unique_ptr<Impl> impl, const MakeDevice& device);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moebius
