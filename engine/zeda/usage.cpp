#include "engine/zeda/usage.h"

#include <algorithm>
#include <numeric>

#include "engine/adapted_weights.h"
#include "engine/train/batches.h"
#include "engine/train/pass.h"
#include "engine/train/trainer.h"

namespace moebius {
namespace {

constexpr int64_t kRows = 2048;  // at once, or the longest example

void count(SlotCount& to, int64_t slots, int64_t skipped) { to.slots += slots, to.skipped += skipped; }

class Counting {
 public:
  Counting(const ModelFiles& model, const Dataset& data, const Tokenizer& tokenizer)
      : model_(model), data_(data), tokenizer_(tokenizer) {
    use_.layers.resize(static_cast<size_t>(model.config().layers));
  }

  Result<SlotUse> run(const SlotUseOptions& options) {
    const std::unique_ptr<Backend> backend = make_host_backend({options.threads});
    const RotaryTable rotary = rotary_table(model_.config().rotary);
    std::unique_ptr<AdaptedWeights> adapted;
    if (!options.adapter.empty()) {
      MOEBIUS_ASSIGN(Adapter adapter, read_adapter(options.adapter, model_.config()));
      MOEBIUS_ASSIGN(adapted, AdaptedWeights::create(model_.config(), model_.weights(),
                                                     std::move(adapter.factors), false));
    }
    Model model{model_.config(), adapted ? adapted->weights() : model_.weights(), rotary, *backend};
    model.skip = options.skip;
    int64_t rows = kRows;
    for (int64_t i = 0; i < data_.size(); ++i) rows = std::max(rows, data_.tokens_of(i));
    MOEBIUS_ASSIGN(const std::unique_ptr<TrainingPass> pass, TrainingPass::create(model, {rows, 0}));
    const TrainingSet all = all_of(data_);
    MOEBIUS_ASSIGN(Batches batches, Batches::create(data_, all.examples, {0, false, rows, 1}));
    for (BatchPosition at; at.epoch == 0;) {
      if (options.progress && !options.progress(at.index, batches.examples()))
        return Status(Code::kCancelled, "cancelled");
      MOEBIUS_ASSIGN(const std::vector<MicroBatch> micro, batches.next(at));
      for (const MicroBatch& m : micro) {
        MOEBIUS_TRY(pass->evaluate({m.ids, m.targets, m.weights, m.starts}).status());
        add(m, *pass);
      }
    }
    use_.expert_bytes /= static_cast<double>(std::max<int64_t>(1, use_.tokens));
    return use_;
  }

 private:
  void add(const MicroBatch& m, const TrainingPass& pass) {
    const std::vector<TokenKind> kinds = kinds_of(m);
    use_.tokens += std::ssize(m.ids);
    for (int64_t l = 0; l < model_.config().layers; ++l) {
      const Tensor& ids = pass.expert_ids(l);
      if (ids.empty()) continue;
      const std::vector<ExpertWeights>& experts = model_.weights().layers[static_cast<size_t>(l)].experts;
      const int64_t k = ids.shape[1];
      for (size_t t = 0; t < m.ids.size(); ++t) {
        const int32_t* slots = ids.i32() + static_cast<int64_t>(t) * k;
        const int64_t skipped = std::count(slots, slots + k, -1);
        for (SlotCount* to :
             {&use_.all, &use_.layers[static_cast<size_t>(l)], &use_.kinds[static_cast<size_t>(kinds[t])]})
          count(*to, k, skipped);
        for (int64_t s = 0; s < k; ++s) {
          if (slots[s] < 0) continue;
          const ExpertWeights& e = experts[static_cast<size_t>(slots[s])];
          use_.expert_bytes += static_cast<double>(e.gate.bytes() + e.up.bytes() + e.down.bytes());
        }
      }
    }
  }

  // A token is of the prompt unless its prediction counted.
  std::vector<TokenKind> kinds_of(const MicroBatch& m) const {
    std::vector<TokenKind> kinds(m.ids.size(), TokenKind::kPrompt);
    for (size_t i = 0; i + 1 < m.starts.size(); ++i)
      for (int64_t t = m.starts[i] + 1; t < m.starts[i + 1]; ++t)
        if (m.targets[static_cast<size_t>(t - 1)] >= 0)
          kinds[static_cast<size_t>(t)] = token_kind(tokenizer_, m.ids[static_cast<size_t>(t)]);
    return kinds;
  }

  const ModelFiles& model_;
  const Dataset& data_;
  const Tokenizer& tokenizer_;
  SlotUse use_;
};

}  // namespace

const char* token_kind_name(TokenKind kind) {
  constexpr const char* kNames[kTokenKinds] = {"prompt", "number", "word", "punctuation", "space", "special"};
  return kNames[static_cast<size_t>(kind)];
}

TokenKind token_kind(const Tokenizer& tokenizer, int32_t id) {
  if (tokenizer.is_special(id)) return TokenKind::kSpecial;
  const std::string_view bytes = tokenizer.token_bytes(id);
  const auto is_letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || static_cast<unsigned char>(c) >= 0x80;
  };
  const auto is_space = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  if (std::ranges::any_of(bytes, [](char c) { return c >= '0' && c <= '9'; })) return TokenKind::kNumber;
  if (std::ranges::any_of(bytes, is_letter)) return TokenKind::kWord;
  return std::ranges::all_of(bytes, is_space) ? TokenKind::kSpace : TokenKind::kPunctuation;
}

Result<SlotUse> count_slots(const ModelFiles& model, const Dataset& data, const Tokenizer& tokenizer,
                            const SlotUseOptions& options) {
  return Counting(model, data, tokenizer).run(options);
}

}  // namespace moebius
