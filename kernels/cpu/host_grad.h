// The backward operations on the host: ordered lists of implementations, as in host.h. What they compute with
// float32 matrix products agrees with the references within rounding; the bits never depend on the threads.
#pragma once

#include "kernels/cpu/host.h"
#include "kernels/grad_ops.h"

namespace moebius {

// Ordered, fastest first; the last one is the scalar reference and takes everything. host_<op>() is defined
// in kernels/cpu/<file of the op>.cpp, those that go row by row in rows_backward.cpp.
#define X(name, Args) std::span<const Candidate<Args>> host_##name();
MOEBIUS_GRAD_OPS(X)
#undef X

template <class Args, void (*kReference)(const Args&)>
constexpr Candidate<Args> grad_reference(const char* name) {
  return {name, declines_nothing<Args>, [](const Args& args, HostContext&) { kReference(args); }};
}

}  // namespace moebius
