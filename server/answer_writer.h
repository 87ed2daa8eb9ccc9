// AnswerWriter: what one API makes of the events of a generation: one object at the end, or server-sent
// events on the way. Knows nothing of HTTP.
#pragma once

#include <string>

#include "engine/generation.h"
#include "server/errors.h"

namespace moebius {

struct Usage {
  int64_t prompt = 0, completion = 0, cached = 0, reasoning = 0;
  CacheMiss miss = CacheMiss::kNone;  // of the last prompt; for the log: it tells of other requests
};

// "data: ...\n\n"
std::string sse_event(const Json& json);
// "event: NAME\ndata: ...\n\n"
std::string sse_event(std::string_view name, const Json& json);
inline constexpr const char* kSseDone = "data: [DONE]\n\n";
inline constexpr const char* kSsePing = ": ping\n\n";

struct PromptProgress {
  int64_t total = 0, cached = 0, processed = 0;  // tokens; processed are those that were in the cache, too
  double ms = 0;                                 // since the prompt was begun
};

class AnswerWriter {
 public:
  virtual ~AnswerWriter() = default;

  // Of a stream, what to send before anything is computed, when nothing came for a while, and as the last
  // event where an answer failed.
  virtual std::string begin() { return {}; }
  virtual std::string silence() { return kSsePing; }
  // Before the first piece, of a request that wants to know how far its prompt is.
  virtual std::string progress(const PromptProgress&) { return {}; }
  virtual std::string failed(const ApiError& error) { return sse_event(error.json()); }

  // Takes a kPiece, kChoiceDone or kDone. Of a stream, returns the events to send now, "" for none.
  virtual std::string add(const GenerationEvent& event) = 0;
  virtual Json json() const = 0;  // the whole answer, once all choices are done

  const Usage& usage() const { return usage_; }
  const std::string& finish_reason() const { return finish_; }  // of the last choice that ended

 protected:
  // Counts a choice that ended; the prompt once for the choices that share it.
  void count(const GenerateStats& stats, bool first_of_prompt);

  Usage usage_;
  std::string finish_;
};

}  // namespace moebius
