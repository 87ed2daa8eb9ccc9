// OpMeter: what each operation of a backend took and moved. For backends that compute when they are called.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>

#include "kernels/backend.h"

namespace moebius {

struct OpTotal {
  int64_t calls = 0;
  double seconds = 0;
  double stored_bytes = 0;  // of weights and caches, read once a call; of routed experts those in use
  double bytes = 0;         // with activations
  double flops = 0;         // of products, see flops.h
};
using OpTotals = std::map<std::string, OpTotal>;  // by operation: "linear head", "expert_ffn"

class OpMeter {
 public:
  // Products with the matrix at `data` are counted under "linear <label>". label outlives this.
  void label(const void* data, const char* text) { labels_[data] = text; }
  // op: a literal, always the same one. data: of the product's matrix, or null for other operations.
  OpTotal& of(const char* op, const void* data);
  const OpTotals& totals() const { return totals_; }
  void clear();

 private:
  OpTotals totals_;
  // By operation and matrix: what was looked up before.
  std::map<std::pair<const char*, const void*>, OpTotal*> known_;
  std::unordered_map<const void*, const char*> labels_;
};

// meter outlives the result.
std::unique_ptr<Backend> make_metered_backend(std::unique_ptr<Backend> to, OpMeter& meter);

}  // namespace moebius
