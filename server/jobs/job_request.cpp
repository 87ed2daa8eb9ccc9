#include "server/jobs/job_request.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "server/fields.h"

namespace moebius {

namespace {

constexpr double kLearningRate = 2e-3;  // that of `moebius finetune`, for a multiplier of 1
constexpr size_t kSuffix = 64, kMetadata = 16, kKey = 64, kValue = 512, kTargets = 64;

enum class FieldKind : uint8_t { kInteger, kNumber, kChoice, kNames, kFlag };

struct LoraField {
  const char* name;
  const char* argument;  // nullptr: learning_rate() has it
  FieldKind kind;
  double low = 0, high = 0;
  const char* usual = nullptr;  // what `moebius finetune` takes by itself; null: it depends
  std::array<const char*, 4> choices = {};
};

const LoraField kLoraFields[] = {
    {"rank", "--rank", FieldKind::kInteger, 1, 65536, "16"},
    {"alpha", "--alpha", FieldKind::kNumber, 1e-6, 1e6, "32"},
    {"targets", "--targets", FieldKind::kNames},
    {"optimizer", "--optimizer", FieldKind::kChoice, 0, 0, "\"muon\"", {"muon", "lora-muon", "adamw"}},
    {"lr", nullptr, FieldKind::kNumber, 1e-12, 1e3},
    {"weight_decay", "--weight-decay", FieldKind::kNumber, 0, 1e3, "0"},
    {"schedule",
     "--schedule",
     FieldKind::kChoice,
     0,
     0,
     "\"cosine\"",
     {"cosine", "wsd", "linear", "constant"}},
    {"warmup", "--warmup", FieldKind::kInteger, 0, 1e9, "0"},
    {"clip", "--clip", FieldKind::kNumber, 1e-9, 1e9, "1"},
    {"seq_len", "--max-tokens", FieldKind::kInteger, 2, 1 << 24},
    {"cut_long", "--cut-long", FieldKind::kFlag},
    {"micro_tokens", "--micro-tokens", FieldKind::kInteger, 2, 1 << 24},
    {"accumulation", "--accumulate", FieldKind::kInteger, 1, 1 << 20},
    {"steps", "--steps", FieldKind::kInteger, 1, 1e9},
    {"eval_part", "--eval-part", FieldKind::kNumber, 0, 0.5, "0.05"},
    {"patience", "--patience", FieldKind::kInteger, 0, 1e6, "0"},
    {"adapter_layout", "--adapter-layout", FieldKind::kChoice, 0, 0, "\"fused\"", {"fused", "per-expert"}},
};

bool is_name(const std::string& text) {
  return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '_' || c == '-' || c == '.';
  });
}

void check_choice(Fields& in, const LoraField& field, const Json& value) {
  const auto known = [&](const char* choice) { return choice != nullptr && value == choice; };
  if (std::any_of(field.choices.begin(), field.choices.end(), known)) return;
  const auto end = std::find(field.choices.begin(), field.choices.end(), nullptr);
  in.fail(field.name, fmt::format("must be one of {}", fmt::join(field.choices.begin(), end, ", ")));
}

void check_names(Fields& in, const LoraField& field, const Json& value) {
  const bool names = value.is_array() && !value.empty() && value.size() <= kTargets &&
                     std::all_of(value.begin(), value.end(), [](const Json& name) {
                       return name.is_string() && is_name(name.get_ref<const std::string&>());
                     });
  if (!names) in.fail(field.name, fmt::format("must be a list of 1 to {} names", kTargets));
}

void check_lora_field(Fields& in, const LoraField& field, const Json& value) {
  int64_t integer = 0;
  float number = 0;
  bool flag = false;
  switch (field.kind) {
    case FieldKind::kInteger:
      return in.integer(field.name, static_cast<int64_t>(field.low), static_cast<int64_t>(field.high),
                        integer);
    case FieldKind::kNumber:
      return in.number(field.name, field.low, field.high, number);
    case FieldKind::kChoice:
      return check_choice(in, field, value);
    case FieldKind::kNames:
      return check_names(in, field, value);
    case FieldKind::kFlag:
      return in.boolean(field.name, flag);
  }
}

void read_lora(Fields& in, JobRequest& request) {
  const Json* lora = in.object("x_lora");
  if (lora == nullptr) return;
  Fields fields(*lora, "x_lora.");
  for (const auto& [name, value] : lora->items()) {
    if (value.is_null()) continue;
    const auto field =
        std::find_if(std::begin(kLoraFields), std::end(kLoraFields),
                     [&, wanted = std::string_view(name)](const LoraField& f) { return wanted == f.name; });
    if (field == std::end(kLoraFields)) {
      std::vector<std::string> known;
      for (const LoraField& f : kLoraFields) known.push_back(f.name);
      in.fail(bad_request(
          fmt::format("`x_lora` has a field that is not known here; there are {}", fmt::join(known, ", ")),
          "x_lora", "unsupported_parameter"));
      return;
    }
    check_lora_field(fields, *field, value);
    request.lora[name] = value;
  }
  if (fields.failed()) in.fail(*fields.error());
}

// A field that may say "auto", which leaves the target alone.
bool says_auto(const Fields& in, std::string_view name) {
  const Json* value = in.find(name);
  return value != nullptr && *value == "auto";
}

void read_hyperparameters(Fields& outer, std::string_view name, const std::string& prefix,
                          JobRequest& request) {
  const Json* object = outer.object(name);
  if (object == nullptr) return;
  Fields in(*object, prefix);
  float multiplier = 1;
  if (!says_auto(in, "n_epochs")) in.integer("n_epochs", 1, 50, request.epochs);
  if (!says_auto(in, "batch_size")) in.integer("batch_size", 1, 256, request.batch);
  if (!says_auto(in, "learning_rate_multiplier") && in.find("learning_rate_multiplier") != nullptr) {
    in.number("learning_rate_multiplier", 1e-9, 1e6, multiplier);
    if (!in.failed()) request.multiplier = in.find("learning_rate_multiplier")->get<double>();
  }
  if (in.failed()) outer.fail(*in.error());
}

void read_method(Fields& in, JobRequest& request) {
  const Json* method = in.object("method");
  if (method == nullptr) return read_hyperparameters(in, "hyperparameters", "hyperparameters.", request);
  Fields fields(*method, "method.");
  std::string type;
  fields.text("type", type);
  if (type == "dpo" || type == "reinforcement") {
    fields.fail(bad_request(
        fmt::format("`method.type` {} is not supported here; the only method is supervised", type),
        "method.type", "unsupported_value"));
  } else if (type != "supervised") {
    fields.fail("type", "must be supervised");
  }
  if (const Json* supervised = fields.object("supervised")) {
    Fields inner(*supervised, "method.supervised.");
    read_hyperparameters(inner, "hyperparameters", "method.supervised.hyperparameters.", request);
    if (inner.failed()) fields.fail(*inner.error());
  }
  if (fields.failed()) in.fail(*fields.error());
}

void read_metadata(Fields& in, JobRequest& request) {
  const Json* metadata = in.object("metadata");
  if (metadata == nullptr) return;
  bool fits = metadata->size() <= kMetadata;
  for (const auto& [key, value] : metadata->items())
    fits = fits && key.size() <= kKey && value.is_string() &&
           value.get_ref<const std::string&>().size() <= kValue;
  if (!fits)
    return in.fail("metadata", fmt::format("must hold at most {} texts of {} bytes, with keys of {}",
                                           kMetadata, kValue, kKey));
  request.metadata = *metadata;
}

void read_file(Fields& in, const char* name, std::string& id) {
  in.text(name, id);
  if (id.size() > 64) in.fail(name, "must be the id of a file");
}

std::string argument_value(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return value.dump();
  std::vector<std::string> names;
  for (const Json& name : value) names.push_back(name.get<std::string>());
  return fmt::format("{}", fmt::join(names, ","));
}

}  // namespace

double JobRequest::learning_rate() const {
  return multiplier * (lora.contains("lr") ? lora["lr"].get<double>() : kLearningRate);
}

std::optional<ApiError> parse_job_request(const Json& body, const std::vector<std::string>& models,
                                          JobRequest& request) {
  Fields in(body);
  in.text("model", request.model);
  read_file(in, "training_file", request.training_file);
  read_file(in, "validation_file", request.validation_file);
  in.text("suffix", request.suffix);
  in.integer("seed", 0, INT32_MAX, request.seed);
  read_method(in, request);
  read_metadata(in, request);
  read_lora(in, request);
  const Json* integrations = in.array("integrations");
  if (integrations != nullptr && !integrations->empty()) in.unsupported("integrations", "leave it out");
  if (!in.failed() && request.model.empty()) in.fail("model", "is missing");
  if (!in.failed() && request.training_file.empty())
    in.fail("training_file", "is missing; upload one to /v1/files");
  if (!request.suffix.empty() && (request.suffix.size() > kSuffix || !is_name(request.suffix)))
    in.fail("suffix", "must be at most 64 letters, digits, `-`, `_` and `.`");
  if (request.batch > 0 && request.lora.contains("accumulation"))
    in.fail("x_lora", "has `accumulation`, which excludes `batch_size`");
  if (in.failed()) return in.error();
  if (std::find(models.begin(), models.end(), request.model) == models.end())
    return model_not_found(models.front());
  return {};
}

Json effective_lora(const JobRequest& request) {
  Json out = Json::object();
  for (const LoraField& field : kLoraFields) {
    if (request.lora.contains(field.name))
      out[field.name] = request.lora[field.name];
    else if (field.usual != nullptr)
      out[field.name] = Json::parse(field.usual);
  }
  out["lr"] = request.learning_rate();
  return out;
}

std::vector<std::string> finetune_arguments(const JobRequest& request) {
  std::vector<std::string> out = {fmt::format("--epochs={}", request.epochs),
                                  fmt::format("--seed={}", request.seed),
                                  fmt::format("--lr={}", request.learning_rate())};
  if (request.batch > 0) out.push_back(fmt::format("--batch-size={}", request.batch));
  for (const LoraField& field : kLoraFields) {
    const auto given = request.lora.find(field.name);
    if (given == request.lora.end() || field.argument == nullptr) continue;
    if (field.kind != FieldKind::kFlag)
      out.push_back(fmt::format("{}={}", field.argument, argument_value(*given)));
    else if (*given == true)
      out.push_back(field.argument);
  }
  return out;
}

}  // namespace moebius
