#include "server/request.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "engine/generation.h"
#include "server/fields.h"
#include "server/messages.h"

namespace moebius {

namespace {

// llama.cpp's list: [{"id": 0, "scale": 1.0}], where a scale of 0 leaves an adapter out.
void read_lora(Fields& in, AdapterChoice& choice) {
  const Json* list = in.array("lora");
  if (list == nullptr) return;
  for (const Json& item : *list) {
    if (!item.is_object()) return in.fail("lora", "must hold objects with id and scale");
    Fields one(item, "lora.");
    float scale = 1;
    one.number("scale", -1e6, 1e6, scale);
    const Json* id = one.find("id");
    if (id == nullptr || !(id->is_string() || (id->is_number_integer() && *id >= 0)))
      one.fail("id", "must be a number of GET /lora-adapters, or a name");
    if (one.failed()) return in.fail(*one.error());
    if (scale == 0) continue;
    if (scale != 1) return in.unsupported("lora", "give a scale of 0 or 1");
    if (choice.number >= 0 || !choice.name.empty()) return in.unsupported("lora", "choose one adapter");
    if (id->is_string())
      choice.name = id->get<std::string>();
    else
      choice.number = id->get<int64_t>();
  }
}

bool is_token_list(const Json& value) {
  return value.is_array() && !value.empty() && value.front().is_number();
}

void add_prompt(const Json& value, const char* field, const RequestLimits& limits, Fields& in,
                std::vector<Prompt>& prompts) {
  if (value.is_string()) {
    prompts.emplace_back(value.get<std::string>());
    return;
  }
  if (!is_token_list(value))
    return in.fail(field, "must be a string, a list of token ids, or a list of those");
  std::vector<int32_t> ids;
  ids.reserve(value.size());
  for (const Json& id : value) {
    const bool fits = id.is_number_integer() && id.get<int64_t>() >= 0 && id.get<int64_t>() < limits.vocab;
    if (!fits) return in.fail(field, fmt::format("must hold token ids from 0 to {}", limits.vocab - 1));
    ids.push_back(static_cast<int32_t>(id.get<int64_t>()));
  }
  prompts.emplace_back(std::move(ids));
}

}  // namespace

void read_choice(Fields& in, AdapterChoice& choice) {
  in.text("model", choice.model);
  in.text("adapter", choice.name);
  read_lora(in, choice);
}

void read_prompts(Fields& in, const char* field, const RequestLimits& limits, std::vector<Prompt>& prompts) {
  const Json* value = in.find(field);
  if (value == nullptr) return in.fail(field, "is missing");
  if (!value->is_array() || is_token_list(*value)) return add_prompt(*value, field, limits, in, prompts);
  if (value->empty() || static_cast<int64_t>(value->size()) > limits.prompts) {
    return in.fail(field, fmt::format("must hold 1 to {} prompts", limits.prompts));
  }
  for (const Json& item : *value) add_prompt(item, field, limits, in, prompts);
}

namespace {

void read_stop(Fields& in, const RequestLimits& limits, std::vector<std::string>& stop) {
  const Json* value = in.find("stop");
  if (value == nullptr) return;
  const Json list = value->is_string() ? Json::array({*value}) : *value;
  if (!list.is_array() || static_cast<int64_t>(list.size()) > limits.stops) {
    return in.fail("stop", fmt::format("must be a string or a list of at most {} strings", limits.stops));
  }
  for (const Json& item : list) {
    if (!item.is_string()) return in.fail("stop", "must hold strings");
    const std::string& text = item.get_ref<const std::string&>();
    if (text.empty() || static_cast<int64_t>(text.size()) > limits.stop_bytes) {
      return in.fail("stop", fmt::format("must hold strings of 1 to {} bytes", limits.stop_bytes));
    }
    stop.push_back(text);
  }
}

void read_logit_bias(Fields& in, const RequestLimits& limits, SamplingParams& sampling) {
  const Json* value = in.object("logit_bias");
  if (value == nullptr) return;
  if (static_cast<int64_t>(value->size()) > limits.biases) {
    return in.fail("logit_bias", fmt::format("may hold at most {} ids", limits.biases));
  }
  for (const auto& [key, bias] : value->items()) {
    int32_t id = -1;
    const auto [end, problem] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (problem != std::errc() || end != key.data() + key.size() || id < 0 || id >= limits.vocab) {
      return in.fail("logit_bias", fmt::format("must have token ids from 0 to {} as keys", limits.vocab - 1));
    }
    if (!bias.is_number() || !(bias.get<double>() >= -100 && bias.get<double>() <= 100)) {
      return in.fail("logit_bias", "must have numbers from -100 to 100 as values");
    }
    sampling.logit_bias.emplace_back(id, bias.get<float>());
  }
}

// As llama.cpp names and defaults them.
void read_dry_and_xtc(Fields& in, const RequestLimits& limits, SamplingRequest& request) {
  SamplingParams& sampling = request.sampling;
  in.number("xtc_probability", 0, 1, sampling.xtc_probability);
  in.number("xtc_threshold", 0, 1, sampling.xtc_threshold);
  in.number("dry_multiplier", 0, 100, sampling.dry_multiplier);
  in.number("dry_base", 1, 100, sampling.dry_base);
  in.integer("dry_allowed_length", 1, INT32_MAX, sampling.dry_allowed_length);
  in.integer("dry_penalty_last_n", -1, INT32_MAX, sampling.dry_last);
  request.dry_breakers = {"\n", ":", "\"", "*"};
  const Json* breakers = in.array("dry_sequence_breakers");
  if (breakers == nullptr) return;
  request.dry_breakers.clear();
  if (std::ssize(*breakers) > limits.breakers)
    return in.fail("dry_sequence_breakers", fmt::format("may hold at most {} strings", limits.breakers));
  for (const Json& text : *breakers) {
    const bool fits = text.is_string() && !text.get_ref<const std::string&>().empty() &&
                      std::ssize(text.get_ref<const std::string&>()) <= limits.breaker_bytes;
    if (!fits)
      return in.fail("dry_sequence_breakers",
                     fmt::format("must hold strings of 1 to {} bytes", limits.breaker_bytes));
    request.dry_breakers.push_back(text.get<std::string>());
  }
}

void read_sampling(Fields& in, const RequestLimits& limits, SamplingRequest& request) {
  constexpr double kSmallest = 1e-6;
  SamplingParams& sampling = request.sampling;
  in.number("temperature", 0, 100, sampling.temperature);
  in.number("top_p", 0, 1, sampling.top_p);
  sampling.top_p = std::max(sampling.top_p, static_cast<float>(kSmallest));  // 0 means the likeliest alone
  in.number("min_p", 0, 1, sampling.min_p);
  in.integer("top_k", -1, INT32_MAX, sampling.top_k);
  sampling.top_k = std::max<int64_t>(sampling.top_k, 0);  // some clients say -1 for all
  in.number("presence_penalty", -2, 2, sampling.presence_penalty);
  in.number("frequency_penalty", -2, 2, sampling.frequency_penalty);
  in.number("repetition_penalty", kSmallest, 10, sampling.repetition_penalty);
  in.number("repeat_penalty", kSmallest, 10, sampling.repetition_penalty);  // as llama.cpp names it
  read_dry_and_xtc(in, limits, request);
  read_logit_bias(in, limits, sampling);
  if (const Json* seed = in.find("seed")) {
    // Every 64-bit integer is a seed, negative ones too.
    if (!seed->is_number_integer()) return in.fail("seed", "must be an integer");
    request.has_seed = true;
    sampling.seed =
        seed->is_number_unsigned() ? seed->get<uint64_t>() : static_cast<uint64_t>(seed->get<int64_t>());
  }
}

void read_stream(Fields& in, SamplingRequest& request) {
  in.boolean("stream", request.stream);
  in.boolean("return_progress", request.progress);
  const Json* options = in.object("stream_options");
  if (options == nullptr) return;
  if (!request.stream) return in.fail("stream_options", "is allowed only when `stream` is true");
  Fields fields(*options, "stream_options.");
  bool ignored = false;
  fields.boolean("include_usage", request.include_usage);
  fields.boolean("include_obfuscation", ignored);
  if (fields.failed()) in.fail(*fields.error());
}

// Fields by which other servers change an answer and this one does not, with the value that changes nothing.
struct Foreign {
  const char* name;
  Json neutral;
};
const std::vector<Foreign>& foreign_fields() {
  static const auto* all = new std::vector<Foreign>{{"typical_p", 1},
                                                    {"typ_p", 1},
                                                    {"top_n_sigma", -1},
                                                    {"mirostat", 0},
                                                    {"dynatemp_range", 0},
                                                    {"tfs_z", 1},
                                                    {"use_beam_search", false},
                                                    {"length_penalty", 1},
                                                    {"min_tokens", 0},
                                                    {"stop_token_ids", Json::array()},
                                                    {"bad_words", Json::array()},
                                                    {"allowed_token_ids", Json::array()},
                                                    {"samplers", Json::array()},
                                                    {"include_stop_str_in_output", false},
                                                    {"skip_special_tokens", true},
                                                    {"echo_prompt", false},
                                                    {"prompt_logprobs", 0},
                                                    {"truncate_prompt_tokens", 0},
                                                    {"top_a", 0},
                                                    {"n_predict", -1},
                                                    {"continue_final_message", false},
                                                    {"add_generation_prompt", true},
                                                    {"smoothing_factor", 0},
                                                    {"logits_processors", Json::array()},
                                                    {"id_slot", -1}};
  return *all;
}

void refuse_unsupported(Fields& in) {
  for (const Foreign& field : foreign_fields()) {
    const Json* value = in.find(field.name);
    if (value != nullptr && *value != field.neutral) in.unsupported(field.name, "leave it out");
  }
}

// What both kinds share; max_tokens apart, whose names and defaults differ.
void read_common(Fields& in, const RequestLimits& limits, SamplingRequest& request) {
  request.sampling = limits.sampling;
  read_choice(in, request.choice);
  read_sampling(in, limits, request);
  read_stop(in, limits, request.stop);
  read_stream(in, request);
  int64_t n = 1;
  in.integer("n", 1, limits.n, n);
  request.n = static_cast<int>(n);
  in.boolean("ignore_eos", request.ignore_eos);
  in.text("cache_salt", request.cache_salt);
  if (std::ssize(request.cache_salt) > limits.salt_bytes)
    in.fail("cache_salt", fmt::format("can have {} bytes at most", limits.salt_bytes));
  int64_t priority = 0;
  in.integer("priority", -kMostPriority, kMostPriority, priority);
  request.priority = static_cast<int>(priority);
  in.integer("max_tokens", 1, INT32_MAX, request.max_tokens);
  refuse_unsupported(in);
  read_constraint(in, limits, request.constraint);
  if (request.constraint.kind != ConstraintRequest::Kind::kNone && request.ignore_eos)
    in.fail("ignore_eos", "and a constraint, which says where the answer ends, cannot both hold");
}

std::optional<ApiError> not_an_object() { return bad_request("the body must be a JSON object"); }

}  // namespace

std::optional<ApiError> parse_chat_request(const Json& body, const RequestLimits& limits,
                                           ChatRequest& request) {
  if (!body.is_object()) return not_an_object();
  Fields in(body);
  read_common(in, limits, request);
  in.integer("max_completion_tokens", 1, INT32_MAX, request.max_tokens);
  for (const char* name : {"functions", "function_call"}) in.unsupported(name, "use `tools`");
  in.unsupported("audio", "this model writes text only");
  in.unsupported("prediction", "leave it out");
  in.unsupported("web_search_options", "this server fetches nothing");
  if (const Json* modalities = in.find("modalities");
      modalities != nullptr && *modalities != Json::array({"text"})) {
    in.fail(bad_request("`modalities` can be [\"text\"] only here", "modalities", "unsupported_parameter"));
  }
  bool logprobs = false;
  in.boolean("logprobs", logprobs);
  int64_t top = 0;
  in.integer("top_logprobs", 0, 20, top);
  if (!logprobs && in.find("top_logprobs") != nullptr && top > 0) {
    in.fail("top_logprobs", "needs `logprobs` to be true");
  }
  if (logprobs) request.top_logprobs = static_cast<int>(top);
  request.variables = read_conversation(in, limits, request.tools);
  if (in.find("reasoning_effort") != nullptr && *in.find("reasoning_effort") == "none")
    request.think_limit = 0;
  // As llama.cpp, vLLM and Qwen name it.
  for (const char* name : {"thinking_budget_tokens", "thinking_token_budget", "thinking_budget"})
    in.integer(name, 0, INT32_MAX, request.think_limit);
  if (request.ignore_eos && !request.tools.rules.functions.empty())
    in.fail("ignore_eos", "and `tools`, whose calls end the answer, cannot both hold");
  return in.error();
}

std::optional<ApiError> parse_completion_request(const Json& body, const RequestLimits& limits,
                                                 CompletionRequest& request) {
  if (!body.is_object()) return not_an_object();
  Fields in(body);
  request.max_tokens = 16;  // OpenAI's default for this route
  read_common(in, limits, request);
  in.unsupported("suffix", "put it into the prompt");
  if (const Json* echo = in.find("echo"); echo != nullptr && *echo != false) {
    in.unsupported("echo", "put the prompt before the answer yourself");
  }
  if (const Json* best = in.find("best_of"); best != nullptr && *best != 1)
    in.unsupported("best_of", "use `n`");
  int64_t logprobs = -1;
  in.integer("logprobs", 0, 5, logprobs);
  request.top_logprobs = static_cast<int>(logprobs);
  read_prompts(in, "prompt", limits, request.prompts);
  return in.error();
}

}  // namespace moebius
