// Writes what a Tracer saw in Chrome's trace event format, which chrome://tracing and Perfetto open.
#pragma once

#include <memory>
#include <string>

#include "kernels/trace.h"
#include "models/file_io.h"

namespace moebius {

class TraceFile {
 public:
  // The file is claimed at once, so that a wrong path is an error before the work and not after it.
  static Result<std::unique_ptr<TraceFile>> create(const std::string& path);
  Tracer& tracer() { return tracer_; }
  Status write();  // once

 private:
  TraceFile() = default;
  Tracer tracer_;
  std::unique_ptr<AtomicFile> file_;
};

}  // namespace moebius
