// The backward operations against PyTorch's autograd in float64 (tests/golden/make_grad_golden.py). A
// gradient may stand off by 1e-5 of the largest number in its tensor: float32 sums of up to some fifty
// products.
#include <cmath>
#include <map>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "kernels/grad_ops.h"
#include "models/safetensors.h"
#include "tests/op_cases.h"

namespace moebius::test {
namespace {

constexpr double kBound = 1e-5;

class Golden {  // the tensors of one case, by field
 public:
  explicit Golden(std::string name) : name_(std::move(name)) {
    static const auto file = SafetensorsFile::open("tests/golden/grad/grad.safetensors");
    MOEBIUS_CHECK(file.ok(), file.status().message());
    for (const TensorEntry& entry : (*file)->tensors()) {
      if (!entry.name.starts_with(name_ + ".")) continue;
      char* data = arena_.take<char>(entry.bytes);
      std::memcpy(data, entry.data, static_cast<size_t>(entry.bytes));
      Tensor t(data, entry.dtype, {});
      if (entry.shape.size() == 1) t = Tensor(data, entry.dtype, {entry.shape[0]});
      if (entry.shape.size() == 2) t = Tensor(data, entry.dtype, {entry.shape[0], entry.shape[1]});
      if (entry.shape.size() == 3)
        t = Tensor(data, entry.dtype, {entry.shape[0], entry.shape[1], entry.shape[2]});
      fields_[entry.name.substr(name_.size() + 1)] = t;
    }
  }
  bool exists() const { return !fields_.empty(); }
  bool has(const std::string& field) const { return fields_.count(field) > 0; }
  Tensor at(const std::string& field) const {
    MOEBIUS_CHECK(has(field), name_ + "." + field);
    return fields_.at(field);
  }
  float number(const std::string& field) const { return at(field).f32()[0]; }
  Matrix matrix(const std::string& field) const {
    Matrix m;
    m.rows = at(field).shape[0], m.cols = at(field).shape[1], m.data = at(field).data;
    return m;
  }
  // The adapter that stands under this prefix, with zeroed gradients.
  Lora lora(const std::string& prefix) {
    Lora l;
    l.a = at(prefix + "a"), l.b = at(prefix + "b"), l.scale = number(prefix + "scale");
    l.da = zeros(prefix + "da"), l.db = zeros(prefix + "db");
    return l;
  }
  // Zeros, shaped as the field.
  Tensor zeros(const std::string& field) {
    Tensor t = at(field);
    t.data = arena_.take<float>(t.numel());
    return t;
  }
  void expect_near(const std::string& field, const Tensor& got) const {
    const Tensor want = at(field);
    double largest = 0;
    for (int64_t i = 0; i < want.numel(); ++i)
      largest = std::max(largest, std::fabs(static_cast<double>(want.f32()[i])));
    for (int64_t i = 0; i < want.numel(); ++i)
      EXPECT_NEAR(got.f32()[i], want.f32()[i], kBound * largest) << name_ << "." << field << " [" << i << "]";
  }

 private:
  std::string name_;
  Arena arena_;
  std::map<std::string, Tensor> fields_;
};

// body(golden) for cases 0, 1, ... of an operation: `count` of them, no more and no fewer.
template <class Body>
void for_each_case(const std::string& op, int count, const Body& body) {
  for (int i = 0; i <= count; ++i) {
    Golden golden(fmt::format("{}.{}", op, i));
    ASSERT_EQ(golden.exists(), i < count) << op << " " << i;
    if (golden.exists()) body(golden);
  }
}

TEST(GradGolden, RmsNorm) {
  for_each_case("rms_norm", 2, [](Golden& g) {
    const RmsNormBackwardArgs args{g.at("x"),  g.at("weight"), g.number("eps"),
                                   g.at("dy"), g.zeros("dx"),  g.zeros("dweight")};
    check(args);
    ref::rms_norm_backward(args);
    g.expect_near("dx", args.dx), g.expect_near("dweight", args.dweight);
  });
}

TEST(GradGolden, Linear) {
  for_each_case("linear", 2, [](Golden& g) {
    const LinearBackwardArgs args{g.matrix("w"), g.at("x"),     g.at("dy"),
                                  g.zeros("dx"), g.zeros("dw"), g.zeros("dbias")};
    check(args);
    ref::linear_backward(args);
    g.expect_near("dx", args.dx), g.expect_near("dw", args.dw), g.expect_near("dbias", args.dbias);
  });
}

// An adapter that the operation adds, and one that the matrix holds already.
TEST(GradGolden, LoraLinear) {
  for_each_case("lora_linear", 2, [](Golden& g) {
    for (const bool merged : {false, true}) {
      Lora lora = g.lora("");
      lora.merged = merged;
      Matrix w = g.matrix("w");
      std::vector<float> sum(g.at("w").f32(), g.at("w").f32() + w.rows * w.cols);
      const int64_t rank = lora.a.shape[0];
      for (int64_t i = 0; i < w.rows * w.cols && merged; ++i)
        for (int64_t k = 0; k < rank; ++k)
          sum[static_cast<size_t>(i)] +=
              lora.scale * lora.b.f32()[i / w.cols * rank + k] * lora.a.f32()[k * w.cols + i % w.cols];
      w.data = sum.data(), w.lora = &lora;
      const LinearBackwardArgs args{w, g.at("x"), g.at("dy"), g.zeros("dx"), g.zeros("dw"), {}};
      check(args);
      ref::linear_backward(args);
      g.expect_near("dx", args.dx), g.expect_near("dw", args.dw);
      g.expect_near("da", lora.da), g.expect_near("db", lora.db);
    }
  });
}

TEST(GradGolden, Swiglu) {
  for_each_case("swiglu", 1, [](Golden& g) {
    const SwigluBackwardArgs args{g.at("gate"), g.at("up"), g.at("dy"), g.zeros("dgate"), g.zeros("dup")};
    check(args);
    ref::swiglu_backward(args);
    g.expect_near("dgate", args.dgate), g.expect_near("dup", args.dup);
  });
}

TEST(GradGolden, Attention) {
  for_each_case("attention", 5, [](Golden& g) {
    const bool shared = g.has("shared");
    const Tensor given = g.at("starts");
    const std::vector<int64_t> starts(given.i32(), given.i32() + given.numel());
    AttentionBackwardArgs args;
    args.q = g.at("q"), args.k = g.at("k"), args.v = g.at("v"), args.scale = g.number("scale");
    args.starts = starts, args.out = g.at("out"), args.dout = g.at("dout");
    args.dq = g.zeros("dq"), args.dk = g.zeros("dk"), args.dv = g.zeros("dv");
    if (shared) args.shared = g.at("shared"), args.dshared = g.zeros("dshared");
    args.highest = g.zeros("highest");
    std::fill_n(args.highest.f32(), args.highest.numel(), -INFINITY);
    check(args);
    ref::attention_backward(args);
    g.expect_near("dq", args.dq), g.expect_near("dk", args.dk), g.expect_near("dv", args.dv);
    if (shared) g.expect_near("dshared", args.dshared);
    g.expect_near("highest", args.highest);
    args.highest.f32()[0] = 1e6f;  // raised, never lowered
    ref::attention_backward(args);
    EXPECT_EQ(args.highest.f32()[0], 1e6f);
  });
}

TEST(GradGolden, Router) {
  for_each_case("router", 8, [](Golden& g) {
    const auto option = [&](int i) { return load_unaligned<int32_t>(g.at("options").data, i); };
    const RouterBackwardArgs args{
        g.at("logits"), g.at("ids"),    g.at("dweights"),  option(0) ? Scoring::kSigmoid : Scoring::kSoftmax,
        option(1),      option(2) != 0, g.number("scale"), g.zeros("dlogits")};
    check(args);
    ref::router_backward(args);
    g.expect_near("dlogits", args.dlogits);
  });
}

TEST(GradGolden, ExpertFfn) {
  for_each_case("expert_ffn", 3, [](Golden& g) {
    std::vector<ExpertWeights> experts;
    std::vector<ExpertGradients> gradients;
    std::map<std::string, Lora> loras;
    for (int e = 0; g.has(fmt::format("{}.gate", e)); ++e) {
      const auto matrix = [&](const char* name) {
        const std::string field = fmt::format("{}.{}", e, name);
        Matrix m = g.matrix(field);
        if (g.has(field + ".a")) m.lora = &(loras[field] = g.lora(field + "."));
        return m;
      };
      const auto sum = [&](const char* name) { return g.zeros(fmt::format("{}.d{}", e, name)); };
      experts.push_back({matrix("gate"), matrix("up"), matrix("down")});
      gradients.push_back({sum("gate"), sum("up"), sum("down")});
    }
    ExpertFfnBackwardArgs args;
    args.x = g.at("x"), args.experts = experts.data(), args.n_experts = static_cast<int64_t>(experts.size());
    args.ids = g.at("ids"), args.weights = g.at("weights"), args.dy = g.at("dy");
    std::vector<float> slots(static_cast<size_t>(args.ids.numel() * args.x.shape[1]));
    args.dslots = f32_tensor(slots.data(), {args.ids.shape[0], args.ids.shape[1], args.x.shape[1]});
    args.dweights = g.zeros("dweights"), args.gradients = gradients.data();
    std::fill_n(args.dweights.f32(), args.dweights.numel(), NAN);  // set, not added to
    check(args);
    ref::expert_ffn_backward(args);
    const Tensor dx = g.zeros("dx");
    ref::combine({args.dslots, args.ids, Tensor(), dx}, true);
    g.expect_near("dx", dx), g.expect_near("dweights", args.dweights);
    for (size_t e = 0; e < experts.size(); ++e) {
      g.expect_near(fmt::format("{}.dgate", e), gradients[e].gate);
      g.expect_near(fmt::format("{}.dup", e), gradients[e].up);
      g.expect_near(fmt::format("{}.ddown", e), gradients[e].down);
    }
    for (const auto& [field, lora] : loras)
      g.expect_near(field + ".da", lora.da), g.expect_near(field + ".db", lora.db);
  });
}

TEST(GradGolden, CrossEntropy) {
  for_each_case("cross_entropy", 2, [](Golden& g) {
    const CrossEntropyArgs args{
        g.at("logits"), g.at("targets"), g.has("weights") ? g.at("weights") : Tensor(), g.zeros("loss"), {}};
    check(args);
    ref::cross_entropy(args);
    g.expect_near("loss", args.loss), g.expect_near("dlogits", args.logits);
  });
}

TEST(GradGolden, Embed) {
  for_each_case("embed", 1, [](Golden& g) {
    const EmbedBackwardArgs args{g.at("ids"), g.at("dy"), g.zeros("dtable")};
    check(args);
    ref::embed_backward(args);
    g.expect_near("dtable", args.dtable);
  });
}

}  // namespace
}  // namespace moebius::test
