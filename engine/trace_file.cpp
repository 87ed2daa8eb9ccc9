#include "engine/trace_file.h"

#include <fmt/format.h>

namespace moebius {
namespace {

constexpr const char* kRowNames[] = {"device: compute", "device: link", "CPU: experts"};

double microseconds(Tracer::Clock::duration d) {
  return std::chrono::duration<double, std::micro>(d).count();
}

}  // namespace

Result<std::unique_ptr<TraceFile>> TraceFile::create(const std::string& path) {
  std::unique_ptr<TraceFile> trace(new TraceFile());
  MOEBIUS_ASSIGN(trace->file_, AtomicFile::create(path));
  return trace;
}

Status TraceFile::write() {
  std::string text = "{\"traceEvents\":[\n";
  for (size_t row = 0; row < std::size(kRowNames); ++row)
    text += fmt::format(R"({{"name":"thread_name","ph":"M","pid":1,"tid":{},"args":{{"name":"{}"}}}},)"
                        "\n",
                        row, kRowNames[row]);
  const std::vector<Tracer::Span> spans = tracer_.spans();
  Tracer::Clock::time_point start = Tracer::Clock::time_point::max();
  for (const Tracer::Span& s : spans) start = std::min(start, s.begin);
  for (const Tracer::Span& s : spans) {
    text +=
        fmt::format(R"({{"name":"{}","ph":"X","pid":1,"tid":{},"ts":{:.3f},"dur":{:.3f})", s.name,
                    static_cast<int>(s.row), microseconds(s.begin - start), microseconds(s.end - s.begin));
    text += s.layer < 0 ? "},\n"
                        : fmt::format(R"(,"args":{{"layer":{}}}}},)"
                                      "\n",
                                      s.layer);
  }
  text.resize(text.size() - 2);  // the comma of the last
  text += "\n]}\n";
  MOEBIUS_TRY(file_->write_at(text.data(), text.size(), 0));
  return file_->commit();
}

}  // namespace moebius
