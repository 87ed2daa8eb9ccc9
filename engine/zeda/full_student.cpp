#include <filesystem>

#include <fmt/format.h>

#include "engine/checkpoint_folder.h"
#include "engine/zeda/student.h"
#include "models/file_io.h"

namespace moebius {
namespace {

class FullStudent final : public Student {
 public:
  FullStudent(const ModelFiles& files, std::unique_ptr<FullModel> model)
      : files_(files), model_(std::move(model)) {}

  const Weights& weights() const override { return model_->weights(); }
  const Gradients& gradients() const override { return model_->gradients(); }
  std::span<const optim::NamedGradient> named_gradients() const override { return model_->named_gradients(); }
  void zero_gradients() override { model_->zero_gradients(); }
  Status step(double lr, const TrainingPass& statistics, ThreadPool& pool) override {
    return model_->step(lr, statistics, pool);
  }
  std::vector<optim::StateEntry> entries() override { return model_->entries(); }
  Status start_from(const Student& other) override { return model_->start_from(other.weights()); }

  Status write(const std::string& dir, bool) override {
    const std::string& from = files_.checkpoint().dir();
    MOEBIUS_ASSIGN(const std::string config, read_text_file(from + "/config.json", kMaxConfigBytes));
    MOEBIUS_TRY(write_text_file(dir + "/config.json", config));
    MOEBIUS_TRY(copy_companions(from, dir));
    return model_->write_weights(dir + "/model.safetensors");
  }

  int64_t parameters() const override {
    int64_t count = 0;
    for (const optim::NamedGradient& g : model_->named_gradients()) count += g.values.size();
    return count;
  }

 private:
  const ModelFiles& files_;
  std::unique_ptr<FullModel> model_;
};

}  // namespace

Result<std::unique_ptr<Student>> full_student(const ModelFiles& injected, Backend& backend) {
  if (injected.config().quant != ModelConfig::Quant::kNone) {
    return unsupported(fmt::format("{}: quantised weights cannot be trained as a whole; give --train lora",
                                   injected.checkpoint().dir()));
  }
  FullOptions options;
  options.matrices = options.embeddings = optim::adamw(kStudentDecay, kStudentMoments);
  options.vectors = optim::adamw(0, kStudentMoments);
  options.balance_gamma = 0;  // selection biases stay
  MOEBIUS_ASSIGN(std::unique_ptr<FullModel> model, FullModel::random(injected.config(), options, backend));
  MOEBIUS_TRY(model->start_from(injected.weights()));
  return std::unique_ptr<Student>(std::make_unique<FullStudent>(injected, std::move(model)));
}

}  // namespace moebius
