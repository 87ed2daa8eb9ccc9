// Student: what of a model with zero experts is trained.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/train/full.h"
#include "engine/train/lora.h"

namespace moebius {

// How ZEDA trains what is no adapter.
inline constexpr double kStudentDecay = 0.1;
inline constexpr optim::AdamMoments kStudentMoments{0.9, 0.98};

class Student : public Trained {
 public:
  // Takes over the weights of a student of the same kind and model; the optimizer starts anew.
  virtual Status start_from(const Student& other) = 0;
  // Writes the model into dir, which exists. final: no further steps will come.
  virtual Status write(const std::string& dir, bool final) = 0;
  virtual int64_t parameters() const = 0;
};

// Every weight, in float32 memory, by AdamW; for models that fit there four times.
Result<std::unique_ptr<Student>> full_student(const ModelFiles& injected, Backend& backend);

// The routers in float32, by AdamW, and adapters on other matrices, on the frozen weights as they lie in the
// file. dir/ becomes the checkpoint with its routers, dir/adapter/ the adapters in peft's format, both at the
// end; until then only the adapters.
Result<std::unique_ptr<Student>> lora_student(const ModelFiles& injected, const LoraOptions& options);

}  // namespace moebius
