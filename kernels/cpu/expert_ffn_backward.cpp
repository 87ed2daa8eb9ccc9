// Slots are sorted by expert and fall into parts of one expert each, a task of one thread. A task goes
// through its slots in chunks whose numbers stay in a core's cache. Gradients of weights are added by the
// chunk; where an expert has several parts, each part has sums of its own, which are added in their order.
#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/cpu/chunk_matrix.h"
#include "kernels/cpu/grad_rows.h"
#include "kernels/cpu/host_grad.h"
#include "kernels/cpu/slots.h"
#include "kernels/cpu/workers.h"

namespace moebius {
namespace {

constexpr int64_t kPartSlots = 1024;
constexpr int64_t kPiece = 16;  // rows that a thread adds at a time

using ExpertSums = std::array<MatrixSums, 3>;  // of gate, up and down

ExpertSums expert_sums(const ExpertFfnBackwardArgs& args, int64_t expert) {
  const ExpertWeights& e = args.experts[expert];
  const ExpertGradients gradients = args.gradients ? args.gradients[expert] : ExpertGradients{};
  const auto sums = [](const Matrix& w, const Tensor& dw) {
    return MatrixSums{dw, w.lora ? w.lora->da : Tensor(), w.lora ? w.lora->db : Tensor()};
  };
  return {sums(e.gate, gradients.gate), sums(e.up, gradients.up), sums(e.down, gradients.down)};
}

// body(tensor of one, tensor of the other) for all nine.
template <class Body>
void for_each_sum(ExpertSums& one, const ExpertSums& other, const Body& body) {
  for (size_t i = 0; i < one.size(); ++i)
    body(one[i].dw, other[i].dw), body(one[i].da, other[i].da), body(one[i].db, other[i].db);
}

ExpertSums own_sums(const ExpertSums& like, Scratch& scratch) {
  ExpertSums own;
  for_each_sum(own, like, [&](Tensor& to, const Tensor& from) {
    if (from.empty()) return;
    to = f32_tensor(scratch.take<float>(from.numel()), {from.shape[0], from.shape[1]});
    std::fill_n(to.f32(), to.numel(), 0.0f);
  });
  return own;
}

struct Part {
  int64_t expert, first, count;  // slots in the sorted order
  bool alone;                    // the expert has no other
  ExpertSums sums;
};

// Slots of a part: few enough for threads to share, so many that sums of its own cost less than its tokens.
int64_t part_slots(const ExpertWeights& e) { return std::max(kPartSlots, 3 * e.gate.rows); }

std::vector<Part> make_parts(const ExpertFfnBackwardArgs& args, const SortedSlots& sorted, Scratch& scratch) {
  std::vector<Part> parts;
  for (int64_t e = 0; e < args.n_experts; ++e) {
    const int64_t begin = sorted.first[e], end = sorted.first[e + 1];
    if (begin == end) continue;
    const int64_t most = part_slots(args.experts[e]);
    const bool alone = end - begin <= most;
    const ExpertSums sums = expert_sums(args, e);
    for (int64_t first = begin; first < end; first += most)
      parts.push_back({e, first, std::min(most, end - first), alone, alone ? sums : own_sums(sums, scratch)});
  }
  return parts;
}

// What the parts of one expert summed, to where it belongs.
void add_parts(const ExpertFfnBackwardArgs& args, const std::vector<Part>& parts, HostContext& context) {
  for (const Part& part : parts) {
    if (part.alone) continue;
    ExpertSums sums = expert_sums(args, part.expert);
    for_each_sum(sums, part.sums, [&](Tensor& to, const Tensor& from) {
      parallel_for(context.pool, to.empty() ? 0 : to.shape[0], kPiece, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r)
          add_row(from.f32() + r * from.stride[0], from.shape[1], to.f32() + r * to.stride[0]);
      });
    });
  }
}

// Memory of one worker.
struct Workspace {
  Workspace(const ExpertFfnBackwardArgs& args, const std::vector<Part>& parts, Scratch& scratch) {
    const int64_t hidden = args.x.shape[1];
    int64_t widest = 0, copied = 0, rank = 0;
    for (const Part& part : parts) {
      const ExpertWeights& e = args.experts[part.expert];
      widest = std::max(widest, e.gate.rows);
      for (const Matrix* w : {&e.gate, &e.up, &e.down}) {
        copied = std::max(copied, numbers_copied(*w));
        rank = std::max(rank, adapter_rank(*w));
      }
    }
    for (int i = 0; i < 3; ++i) matrix.emplace_back(copied, rank, scratch);
    for (float** at : {&x, &dy, &dx}) *at = scratch.take<float>(kChunk * hidden);
    for (float** at : {&gate, &up, &dh}) *at = scratch.take<float>(kChunk * widest);
  }
  std::vector<ChunkMatrix::Memory> matrix;  // for gate, up and down
  float *x, *dy, *dx;                       // [chunk, hidden]
  float *gate, *up, *dh;                    // [chunk, width]; then dgate, dup and h
};

class PartTask {
 public:
  PartTask(const ExpertFfnBackwardArgs& args, const SortedSlots& sorted, const Part& part,
           const Workspace& work, const HostContext& context)
      : args_(args),
        sorted_(sorted),
        part_(part),
        work_(work),
        avx2_(context.avx2()),
        gate_(args.experts[part.expert].gate, part.sums[0], work.matrix[0], context),
        up_(args.experts[part.expert].up, part.sums[1], work.matrix[1], context),
        down_(args.experts[part.expert].down, part.sums[2], work.matrix[2], context) {}

  void run() const {
    const int64_t end = part_.first + part_.count;
    float* dx = args_.dslots.empty() ? nullptr : work_.dx;
    for (int64_t first = part_.first; first < end; first += kChunk) {
      const int64_t n = std::min(kChunk, end - first);
      gather(first, n);
      gate_.product(n, work_.x, work_.gate);
      up_.product(n, work_.x, work_.up);
      down_.pass_back(n, work_.dy, work_.dh, false);
      differentiate(first, n);
      down_.meet(n, work_.dh);
      gate_.pass_back(n, work_.gate, dx, false);
      up_.pass_back(n, work_.up, dx, true);
      if (dx) scatter(first, n);
      gate_.add_sums(n, work_.x, work_.gate);
      up_.add_sums(n, work_.x, work_.up);
      down_.add_sums(n, work_.dh, work_.dy);
    }
  }

 private:
  void gather(int64_t first, int64_t n) const {
    const int64_t hidden = args_.x.shape[1];
    const size_t bytes = static_cast<size_t>(hidden) * sizeof(float);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t t = sorted_.token[first + i];
      std::memcpy(work_.x + i * hidden, args_.x.f32() + t * args_.x.stride[0], bytes);
      std::memcpy(work_.dy + i * hidden, args_.dy.f32() + t * args_.dy.stride[0], bytes);
    }
  }
  void scatter(int64_t first, int64_t n) const {
    const int64_t hidden = args_.x.shape[1];
    const Tensor& to = args_.dslots;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t t = sorted_.token[first + i], k = sorted_.k[first + i];
      std::memcpy(to.f32() + t * to.stride[0] + k * to.stride[1], work_.dx + i * hidden,
                  static_cast<size_t>(hidden) * sizeof(float));
    }
  }
  // gate, up and dh become dgate, dup and h, each times the weight of the slot.
  void differentiate(int64_t first, int64_t n) const {
    const int64_t width = args_.experts[part_.expert].gate.rows;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t t = sorted_.token[first + i], k = sorted_.k[first + i];
      float *gate = work_.gate + i * width, *up = work_.up + i * width, *dh = work_.dh + i * width;
      const float weight = args_.weights.f32()[t * args_.weights.stride[0] + k];
      const float along = swiglu_gradient_row({gate, up, dh, weight, gate, up, dh}, width, avx2_);
      if (!args_.dweights.empty()) args_.dweights.f32()[t * args_.dweights.stride[0] + k] = along;
    }
  }

  const ExpertFfnBackwardArgs& args_;
  const SortedSlots& sorted_;
  const Part& part_;
  const Workspace& work_;
  const bool avx2_;
  const ChunkMatrix gate_, up_, down_;
};

void expert_ffn_backward_gemm(const ExpertFfnBackwardArgs& args, HostContext& context) {
  const Scratch::Frame frame(context.scratch);
  const int64_t n = args.ids.shape[0], k = args.ids.shape[1];
  const SortedSlots sorted = sort_slots(args.ids, args.experts, args.n_experts, context.scratch);
  for (int64_t i = 0; i < n * k && !args.dweights.empty(); ++i)
    if (args.ids.i32()[i / k * args.ids.stride[0] + i % k] < 0)
      args.dweights.f32()[i / k * args.dweights.stride[0] + i % k] = 0;
  const std::vector<Part> parts = make_parts(args, sorted, context.scratch);
  const int64_t units = static_cast<int64_t>(parts.size());
  std::vector<Workspace> work;
  for (int i = 0; i < worker_count(context, units); ++i) work.emplace_back(args, parts, context.scratch);
  for_each_unit(context, units, [&](int64_t i, int64_t worker) {
    PartTask(args, sorted, parts[static_cast<size_t>(i)], work[static_cast<size_t>(worker)], context).run();
  });
  add_parts(args, parts, context);
}

}  // namespace

std::span<const Candidate<ExpertFfnBackwardArgs>> host_expert_ffn_backward() {
  static constexpr Candidate<ExpertFfnBackwardArgs> kCandidates[] = {
      {"expert_ffn_backward_gemm", declines_nothing<ExpertFfnBackwardArgs>, expert_ffn_backward_gemm},
      grad_reference<ExpertFfnBackwardArgs, ref::expert_ffn_backward>("expert_ffn_backward_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
