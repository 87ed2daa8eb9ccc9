// Row kernels of every format and instruction set: bytes of weights per second, from a mapped file far larger
// than the caches, as a share of what plain loads of the same pages reach just before and just after; the
// median of seven passes. bench_rows [threads] [tokens] prints CSV; operations are two per weight and token,
// and the probe that their share is of multiplies bytes by maddubs and madd.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <random>
#include <vector>

#include <fmt/format.h>

#include "kernels/backend.h"
#include "kernels/half.h"
#include "kernels/parallel.h"
#include "kernels/probe.h"
#include "tests/random_matrix.h"

namespace moebius {
namespace {

constexpr int64_t kCols = 2048, kBytes = 256 << 20;
constexpr int64_t kTaskRows = 256;

// A file without a name, mapped and in memory.
class MappedFile {
 public:
  explicit MappedFile(const std::vector<uint8_t>& bytes) : size_(bytes.size()) {
    char name[] = "/tmp/bench_rows.XXXXXX";
    const int file = mkstemp(name);
    if (file < 0) return;
    unlink(name);
    size_t done = 0;
    for (ssize_t wrote = 1; done < size_ && wrote > 0;
         done += static_cast<size_t>(std::max<ssize_t>(wrote, 0)))
      wrote = write(file, bytes.data() + done, std::min(size_ - done, size_t{1} << 20));
    if (done == size_) data_ = mmap(nullptr, size_, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
    close(file);
  }
  ~MappedFile() {
    if (ok()) munmap(data_, size_);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  bool ok() const { return data_ != MAP_FAILED; }
  const uint8_t* data() const { return static_cast<const uint8_t*>(data_); }

 private:
  size_t size_;
  void* data_ = MAP_FAILED;
};

struct Tokens {
  explicit Tokens(int64_t n)
      : x(static_cast<size_t>(n * kCols)),
        scale(x.size() / kActivationGroup),
        q(x.size()),
        sum(scale.size()) {
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 17) - 8;
    for (int64_t i = 0; i < n; ++i)
      quantize_activations(x.data() + i * kCols, kCols, q.data() + i * kCols,
                           scale.data() + i * kCols / kActivationGroup,
                           sum.data() + i * kCols / kActivationGroup);
  }
  Activations view(Format format) const {
    if (!is_integer(format)) return {x.data(), kCols, kCols, nullptr, nullptr, nullptr};
    return {x.data(), kCols, kCols, q.data(), scale.data(), sum.data()};
  }
  std::vector<float> x, scale;
  std::vector<int8_t> q;
  std::vector<int32_t> sum;
};

// Codes as weights have them, the largest at the end of the range: of all codes a sixteenth is subnormal, and
// those take longer.
void draw_weights(uint8_t* codes, int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal(0, 110);
  std::vector<uint8_t> some(1 << 16);
  for (uint8_t& code : some) code = f32_to_f8e4m3(normal(random));
  for (int64_t i = 0; i < count; ++i) codes[i] = some[static_cast<size_t>(random() % some.size())];
}

double median_seconds(const Matrix& w, const FormatKernels& kernels, const Tokens& tokens, int64_t n,
                      ThreadPool& pool) {
  std::vector<float> y(static_cast<size_t>(w.rows * n));
  std::vector<double> seconds;
  for (int run = 0; run < 7; ++run) {
    const auto start = std::chrono::steady_clock::now();
    parallel_for(pool, w.rows, kTaskRows, [&](int64_t begin, int64_t end) {
      kernels.dot_rows(w, begin, end, tokens.view(w.format), nullptr, n, y.data() + begin, w.rows);
    });
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + 3, seconds.end());
  return seconds[3];
}

int run(int threads, int64_t n) {
  constexpr double kProbeSeconds = 0.1;
  const Isa isa = cpu_features().isa();
  const Tokens tokens(n);
  ThreadPool pool(threads);
  const double int8_GOPs = probe_int8_GOPs(threads, kProbeSeconds);
  fmt::print("kernel,threads,tokens,GBs,share_of_probe,GOPs,share_of_int8_probe\n");
  for (const Format format :
       {Format::kF32, Format::kBF16, Format::kF16, Format::kFp8Block, Format::kInt8, Format::kInt4}) {
    test::MatrixShape shape{format, 1, kCols};
    shape.rows = kBytes / shape.matrix().row_bytes();
    std::vector<uint8_t> bytes(static_cast<size_t>(shape.data_bytes() + shape.scale_bytes()));
    std::mt19937 random(1);
    Matrix w = test::random_matrix(shape, bytes.data(), bytes.data() + shape.data_bytes(), random);
    if (format == Format::kFp8Block) draw_weights(bytes.data(), shape.data_bytes(), random);
    const MappedFile file(bytes);
    if (!file.ok()) {
      fmt::print(stderr, "bench_rows: cannot map a file of {} bytes in /tmp\n", bytes.size());
      return 1;
    }
    w.data = file.data();
    if (w.scales) w.scales = file.data() + shape.data_bytes();
    const auto probe = [&] {
      return probe_read_GBs(threads, file.data(), shape.data_bytes(), kProbeSeconds);
    };
    for (const FormatKernels& kernels : format_kernels(format)) {
      if (kernels.isa > isa || (kernels.isa == Isa::kScalar && isa != Isa::kScalar)) continue;
      const double before = probe(), took = median_seconds(w, kernels, tokens, n, pool), after = probe();
      const double rate = static_cast<double>(w.bytes()) / took * 1e-9;
      const double operations = 2e-9 * static_cast<double>(w.rows * kCols * n) / took;
      fmt::print("{},{},{},{:.1f},{:.2f},{:.0f},{:.2f}\n", kernels.name, threads, n, rate,
                 2 * rate / (before + after), operations, int8_GOPs > 0 ? operations / int8_GOPs : 0);
    }
  }
  return 0;
}

}  // namespace
}  // namespace moebius

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : moebius::physical_cores();
  return moebius::run(std::max(threads, 1), std::max(1, argc > 2 ? std::atoi(argv[2]) : 1));
}
