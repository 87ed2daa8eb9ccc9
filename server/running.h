// Running: one answer on its way, from what was submitted to what the client gets. Every API answers through
// it, whatever its shapes.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>

#include "server/answer_writer.h"
#include "server/service.h"

namespace moebius {

// What an API wants generated.
struct Submission {
  const SamplingRequest& asked;
  std::vector<std::vector<int32_t>> prompts;
  GenerateOptions how;       // form and constraint; the rest comes from `asked`
  const char* prompt_field;  // that errors about the prompts name
  bool embed = false;        // as Generation's
};

class Running {
 public:
  // Puts the generation into the queue. Sets `out`, or says why it cannot be answered.
  static std::optional<ApiError> submit(Service& service, const Exchange& exchange, Submission submission,
                                        std::unique_ptr<AnswerWriter> writer, std::shared_ptr<Running>& out);
  ~Running();  // cancels what is still computed

  // Called once when the answer ended, with the error if it failed; a client that went away is one, too.
  void when_ended(std::function<void(const AnswerWriter&, const ApiError* error)> call) {
    ended_ = std::move(call);
  }

  // Answers as a stream, or whole: then this call waits for the end.
  static void respond(const Exchange& exchange, std::shared_ptr<Running> running, bool stream);

  // Takes the next event, waiting a moment for one.
  struct Step {
    std::string text;                  // of a stream, to send now
    bool taken = false, done = false;  // an event came; it was the last
    std::optional<ApiError> error;
  };
  Step step(std::chrono::milliseconds wait);
  Json slot_json() const;  // for Slots
  // Somebody asked for it: the answer ends with the error `cancelled`. From any thread.
  void cancel();

 private:
  using Clock = std::chrono::steady_clock;
  Running(Service& service, const Exchange& exchange, std::shared_ptr<Ticket> ticket,
          std::unique_ptr<AnswerWriter> writer, bool constrained, bool reports_progress);
  void respond_whole(const Exchange& exchange);
  bool stream(const std::function<bool()>& client_there, httplib::DataSink& sink);
  std::string progress();
  ApiError failure(const Status& status) const;
  void measure(const GenerationEvent& event);
  void end(const ApiError* error);

  Service& service_;
  const Route& route_;
  const std::shared_ptr<void> place_;  // of the client
  const std::string request_id_;
  const std::shared_ptr<Ticket> ticket_;
  const std::unique_ptr<AnswerWriter> writer_;
  const bool constrained_, reports_progress_;
  const Clock::time_point begun_ = Clock::now(), deadline_;
  std::function<void(const AnswerWriter&, const ApiError* error)> ended_;
  std::map<int, Clock::time_point> last_token_;  // of each choice
  std::atomic<int64_t> tokens_ = 0;
  int64_t told_ = -1;  // how far the prompt was said to be
  std::atomic<bool> cancelled_ = false;
  bool has_ended_ = false;
};

}  // namespace moebius
