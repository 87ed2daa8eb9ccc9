// JobRequest: the request of POST /v1/fine_tuning/jobs, from JSON to values that are known to be in range,
// and to the arguments of `moebius finetune`.
//
// What is this program's own is in one object, `x_lora`, so that clients made for OpenAI need not know it.
// Unknown fields are ignored as elsewhere, but not in `x_lora`, where a misspelt one would train something
// else. Pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server/errors.h"

namespace moebius {

struct JobRequest {
  std::string model, training_file;
  std::string validation_file;  // "": a part of the training file is held out
  std::string suffix;
  int64_t seed = -1;  // -1: one is to be drawn
  int64_t epochs = 3;
  int64_t batch = 0;  // examples of a step; 0: as many as fit
  double multiplier = 1;
  Json lora = Json::object();      // x_lora as it was given
  Json metadata = Json::object();  // or null

  double learning_rate() const;  // the peak
};

// models: names of the base, the first is reported.
std::optional<ApiError> parse_job_request(const Json& body, const std::vector<std::string>& models,
                                          JobRequest& request);

// What x_lora says and what it leaves to `moebius finetune`, as a client reads it.
Json effective_lora(const JobRequest& request);

// All that the request decides, each argument as --NAME=VALUE.
std::vector<std::string> finetune_arguments(const JobRequest& request);

}  // namespace moebius
