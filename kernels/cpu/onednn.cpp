#include "kernels/cpu/onednn.h"

#include "kernels/status.h"

// Without OpenMP this is a build for the thread sanitizer, which cannot see the locks inside oneDNN's.
#if defined(MOEBIUS_HAVE_ONEDNN) && defined(_OPENMP)
#include <dnnl.h>
#include <omp.h>

namespace moebius {

const char* onednn_missing() { return nullptr; }

void onednn_gemm(bool x_transposed, bool w_transposed, int64_t m, int64_t n, int64_t k, const float* x,
                 int64_t ldx, const float* w, int64_t ldw, float* y, int64_t ldy, bool accumulate) {
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);  // of this thread's own regions only
  const dnnl_status_t status = dnnl_sgemm(x_transposed ? 'T' : 'N', w_transposed ? 'T' : 'N', m, n, k, 1.0f,
                                          x, ldx, w, ldw, accumulate ? 1.0f : 0.0f, y, ldy);
  omp_set_num_threads(threads);
  MOEBIUS_CHECK(status == dnnl_success, "dnnl_sgemm refused its arguments");
}

}  // namespace moebius

#else

namespace moebius {

const char* onednn_missing() { return "this build has no oneDNN"; }

void onednn_gemm(bool, bool, int64_t, int64_t, int64_t, const float*, int64_t, const float*, int64_t, float*,
                 int64_t, bool) {
  MOEBIUS_CHECK(false, onednn_missing());
}

}  // namespace moebius

#endif
