#include <filesystem>
#include <map>

#include <fmt/format.h>

#include "engine/zeda/student.h"
#include "engine/zeda/zero_experts.h"
#include "models/file_io.h"
#include "models/peft.h"

namespace moebius {
namespace {

class LoraStudent final : public Student {
 public:
  explicit LoraStudent(const ModelFiles& files) : files_(files) {}

  Status open(const LoraOptions& options) {
    options_ = options;
    base_ = files_.weights();
    WeightVisitor visitor;
    visitor.matrix = [&](const std::string& name, Role role, int64_t rows, int64_t cols, Matrix& w) {
      if (role == Role::kRouter) add_router(name, rows, cols, w);
      return Status();
    };
    visitor.vector = [](const std::string&, int64_t, Tensor&) { return Status(); };
    MOEBIUS_TRY(visit_weights(files_.config(), base_, visitor));
    MOEBIUS_ASSIGN(lora_, LoraModel::create(files_.config(), base_, options));
    for (const AdapterFactors* f : lora_->factors())
      if (routers_.contains(f->module + ".weight"))
        return invalid("--targets: routers are trained as they are, and get no adapter; leave them out");
    gradients_ = lora_->gradients();
    size_t layer = 0;
    for (auto& [name, router] : routers_) {
      while (base_.layers[layer].router.data != router.values.data()) ++layer %= base_.layers.size();
      Matrix& gradient = gradients_.layers[layer].router;
      gradient.rows = router.rows, gradient.cols = router.cols, gradient.data = router.gradient.data();
      named_.push_back({name, view(router.gradient, router)});
    }
    named_.insert(named_.end(), lora_->named_gradients().begin(), lora_->named_gradients().end());
    return Status();
  }

  const Weights& weights() const override { return lora_->weights(); }
  const Gradients& gradients() const override { return gradients_; }
  std::span<const optim::NamedGradient> named_gradients() const override { return named_; }
  void zero_gradients() override {
    lora_->zero_gradients();
    for (auto& [name, router] : routers_) std::ranges::fill(router.gradient, 0.0f);
  }

  Status step(double lr, const TrainingPass& statistics, ThreadPool& pool) override {
    std::vector<optim::Parameter> parameters;
    for (auto& [name, router] : routers_)
      parameters.push_back({name, view(router.values, router), view(router.gradient, router), &router.state});
    MOEBIUS_TRY(optim::apply_step(optim::adamw(kStudentDecay, kStudentMoments), lr, parameters, pool));
    return lora_->step(lr, statistics, pool);
  }

  std::vector<optim::StateEntry> entries() override {
    std::vector<optim::StateEntry> all = lora_->entries();
    for (auto& [name, router] : routers_) {
      all.push_back({name,
                     DType::kF32,
                     {router.rows, router.cols},
                     router.values.data(),
                     std::ssize(router.values) * static_cast<int64_t>(sizeof(float))});
      for (optim::StateEntry& e : optim::state_entries(name, router.state)) all.push_back(std::move(e));
    }
    return all;
  }
  Status refresh() override { return lora_->refresh(); }

  Status start_from(const Student& student) override {
    const auto& other = static_cast<const LoraStudent&>(student);
    for (auto& [name, router] : routers_)
      std::ranges::copy(other.routers_.at(name).values, router.values.begin());
    return lora_->start_from(*other.lora_);
  }

  Status write(const std::string& dir, bool final) override {
    const std::string adapter = dir + "/adapter";
    std::error_code error;
    std::filesystem::create_directories(adapter, error);
    if (error) return system_error("make folder", adapter, error.value());
    AdapterWriteOptions how;
    how.layout = AdapterLayout::kPerExpert;  // zero experts have no fused one
    how.base_model = dir;
    how.method = "adaptation to zero experts";
    MOEBIUS_TRY(write_adapter(adapter, files_.config(), lora_->factors(), how));
    if (!final) return Status();
    const auto values = [&](const std::string& tensor) {
      const auto at = routers_.find(tensor);
      return at == routers_.end() ? nullptr : &at->second.values;
    };
    return write_with_routers(files_, values, dir, {});
  }

  int64_t parameters() const override {
    int64_t count = lora_->parameters();
    for (const auto& [name, router] : routers_) count += std::ssize(router.values);
    return count;
  }

 private:
  struct Router {
    int64_t rows = 0, cols = 0;
    std::vector<float> values, gradient;
    optim::ParameterState state;
  };

  static optim::MatrixView view(std::vector<float>& numbers, const Router& r) {
    return {numbers.data(), r.rows, r.cols};
  }

  void add_router(const std::string& name, int64_t rows, int64_t cols, Matrix& w) {
    Router& r = routers_[name + ".weight"];
    r.rows = rows, r.cols = cols;
    r.values.resize(static_cast<size_t>(rows * cols)), r.gradient.resize(r.values.size());
    format_kernels(w.format).back().dequantize_rows(w, 0, rows, r.values.data(), cols);
    r.state = optim::make_state(optim::adamw(kStudentDecay, kStudentMoments), rows, cols);
    w = Matrix();
    w.rows = rows, w.cols = cols, w.data = r.values.data();
  }

  const ModelFiles& files_;
  LoraOptions options_;
  Weights base_;                           // of the files, with routers of our own
  std::map<std::string, Router> routers_;  // by the tensor's name
  std::unique_ptr<LoraModel> lora_;
  Gradients gradients_;
  std::vector<optim::NamedGradient> named_;
};

}  // namespace

Result<std::unique_ptr<Student>> lora_student(const ModelFiles& injected, const LoraOptions& options) {
  auto student = std::make_unique<LoraStudent>(injected);
  MOEBIUS_TRY(student->open(options));
  return std::unique_ptr<Student>(std::move(student));
}

}  // namespace moebius
