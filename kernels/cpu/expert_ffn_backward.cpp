// Slots are sorted by expert and fall into parts of one expert each, a task of one thread. Here a task goes
// through its slots in chunks whose numbers stay in a core's cache, and gradients of weights are added by the
// chunk.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/expert_parts.h"
#include "kernels/cpu/grad_rows.h"
#include "kernels/cpu/host_grad.h"
#include "kernels/cpu/workers.h"

namespace moebius {
namespace {

// Memory of one worker.
struct Workspace {
  Workspace(const ExpertFfnBackwardArgs& args, const std::vector<ExpertPart>& parts, Scratch& scratch) {
    const int64_t hidden = args.x.shape[1];
    int64_t widest = 0, copied = 0, rank = 0;
    for (const ExpertPart& part : parts) {
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
  PartTask(const ExpertFfnBackwardArgs& args, const SortedSlots& sorted, const ExpertPart& part,
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
  const ExpertPart& part_;
  const Workspace& work_;
  const bool avx2_;
  const ChunkMatrix gate_, up_, down_;
};

// run_parts: what computes the parts.
template <auto run_parts>
void expert_ffn_backward_by(const ExpertFfnBackwardArgs& args, HostContext& context) {
  const Scratch::Frame frame(context.scratch);
  const int64_t n = args.ids.shape[0], k = args.ids.shape[1];
  const SortedSlots sorted = sort_slots(args.ids, args.experts, args.n_experts, context.scratch);
  for (int64_t i = 0; i < n * k && !args.dweights.empty(); ++i)
    if (args.ids.i32()[i / k * args.ids.stride[0] + i % k] < 0)
      args.dweights.f32()[i / k * args.dweights.stride[0] + i % k] = 0;
  const std::vector<ExpertPart> parts = cut_experts(args, sorted, context.scratch);
  run_parts(args, sorted, parts, context);
  add_parts(args, parts, context);
}

const char* declines_panels(const ExpertFfnBackwardArgs& args, const HostContext& context) {
  for (int64_t e = 0; e < args.n_experts && args.gradients; ++e)
    for (const Tensor* dw : {&args.gradients[e].gate, &args.gradients[e].up, &args.gradients[e].down})
      if (!dw->empty()) return "wants the gradients of weights";
  return needs_avx512(args, context);
}

}  // namespace

void run_parts_by_gemm(const ExpertFfnBackwardArgs& args, const SortedSlots& sorted,
                       const std::vector<ExpertPart>& parts, HostContext& context) {
  const int64_t units = static_cast<int64_t>(parts.size());
  std::vector<Workspace> work;
  for (int i = 0; i < worker_count(context, units); ++i) work.emplace_back(args, parts, context.scratch);
  for_each_unit(context, units, [&](int64_t i, int64_t worker) {
    PartTask(args, sorted, parts[static_cast<size_t>(i)], work[static_cast<size_t>(worker)], context).run();
  });
}

std::span<const Candidate<ExpertFfnBackwardArgs>> host_expert_ffn_backward() {
  static constexpr Candidate<ExpertFfnBackwardArgs> kCandidates[] = {
      {"expert_ffn_backward_panels", declines_panels, expert_ffn_backward_by<run_parts_by_panels>},
      {"expert_ffn_backward_gemm", declines_nothing<ExpertFfnBackwardArgs>,
       expert_ffn_backward_by<run_parts_by_gemm>},
      grad_reference<ExpertFfnBackwardArgs, ref::expert_ffn_backward>("expert_ffn_backward_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
