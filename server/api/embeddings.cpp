// POST /v1/embeddings: of each input the mean of its tokens' last hidden states, of length one.
#include <openssl/evp.h>

#include <cmath>

#include <fmt/format.h>

#include "server/api/api.h"
#include "server/encode.h"
#include "server/fields.h"
#include "server/running.h"

namespace moebius {

namespace {

struct EmbeddingRequest : SamplingRequest {
  std::vector<Prompt> inputs;
  bool base64 = false;
};

std::string base64_of(const std::vector<float>& numbers) {  // little-endian, as the machine is
  const auto bytes = static_cast<int>(numbers.size() * sizeof(float));
  std::string text(static_cast<size_t>((bytes + 2) / 3 * 4 + 1), '\0');  // EVP ends it with a zero
  const int length = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                     reinterpret_cast<const unsigned char*>(numbers.data()), bytes);
  text.resize(static_cast<size_t>(length));
  return text;
}

class EmbeddingAnswer : public AnswerWriter {
 public:
  EmbeddingAnswer(std::string model, size_t inputs, bool base64)
      : model_(std::move(model)), data_(inputs), base64_(base64) {}

  std::string add(const GenerationEvent& event) override {
    if (event.kind != GenerationEvent::Kind::kChoiceDone) return {};
    count(event.stats, true);
    finish_ = "stop";
    std::vector<float> unit = event.embedding;
    double squares = 0;
    for (const float x : unit) squares += static_cast<double>(x) * static_cast<double>(x);
    for (float& x : unit) x = static_cast<float>(x / std::sqrt(squares));
    data_[static_cast<size_t>(event.choice)] = base64_ ? Json(base64_of(unit)) : Json(unit);
    return {};
  }
  Json json() const override {
    Json data = Json::array();
    for (size_t i = 0; i < data_.size(); ++i)
      data.push_back({{"object", "embedding"}, {"index", i}, {"embedding", data_[i]}});
    return {{"object", "list"},
            {"data", std::move(data)},
            {"model", model_},
            {"usage", {{"prompt_tokens", usage_.prompt}, {"total_tokens", usage_.prompt}}}};
  }

 private:
  const std::string model_;
  std::vector<Json> data_;
  const bool base64_;
};

std::optional<ApiError> parse(const Json& body, const Service& service, EmbeddingRequest& request) {
  Fields in(body);
  RequestLimits limits = service.limits;
  limits.prompts = limits.inputs;
  read_prompts(in, "input", limits, request.inputs);
  read_choice(in, request.choice);
  std::string format = "float";
  in.text("encoding_format", format);
  if (format != "float" && format != "base64") in.fail("encoding_format", "must be float or base64");
  request.base64 = format == "base64";
  const int64_t hidden = service.engine.config().hidden;
  int64_t dimensions = hidden;
  in.integer("dimensions", 1, INT32_MAX, dimensions);
  if (dimensions != hidden)
    in.unsupported("dimensions", fmt::format("this model's embeddings have {}", hidden));
  in.text("cache_salt", request.cache_salt);
  return in.error();
}

void embed(Service& service, Exchange& e) {
  EmbeddingRequest asked;
  std::optional<ApiError> error = parse(e.body, service, asked);
  if (!error) error = service.adapters.choose(asked);
  std::vector<std::vector<int32_t>> inputs(asked.inputs.size());
  for (size_t i = 0; i < inputs.size() && !error; ++i)
    error = encode_prompt(service.engine, "input", asked.inputs[i], inputs[i]);
  if (error) return service.refuse(e, *error);
  auto answer = std::make_unique<EmbeddingAnswer>(asked.served.name, inputs.size(), asked.base64);
  std::shared_ptr<Running> running;
  error = Running::submit(service, e, {asked, std::move(inputs), {}, "input", /*embed=*/true},
                          std::move(answer), running);
  if (error) return service.refuse(e, *error);
  Running::respond(e, std::move(running), /*stream=*/false);
}

}  // namespace

void add_embedding_routes(Router& router, Service& service) {
  router.post("/v1/embeddings", [&service](Exchange& e) { embed(service, e); });
}

}  // namespace moebius
