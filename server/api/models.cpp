// GET /health, /ready, /version, /metrics, /slots, /v1/models, /v1/models/{id} and /v1/experts.
#include <algorithm>

#include <fmt/chrono.h>

#include "server/api/api.h"

namespace moebius {

namespace {

// Of every layer with experts how often each was chosen, how many slots nobody had to compute, and a letter
// for where each expert is: G on the GPU, R in the host's memory, D on disk.
Json map_json(const std::vector<ExpertLayer>& map) {
  Json out = Json::array();
  for (const ExpertLayer& layer : map) {
    std::string places;
    for (const ExpertPlace place : layer.places)
      places += place == ExpertPlace::kDevice ? 'G' : place == ExpertPlace::kDisk ? 'D' : 'R';
    out.push_back({{"layer", layer.layer},
                   {"chosen", layer.chosen},
                   {"skipped", layer.skipped},
                   {"skip_rate", slots_of(layer).skip_rate()},
                   {"places", places}});
  }
  return out;
}

// Layers that were used.
Json experts_json(const Service& service) {
  const Engine& engine = service.engine;
  Json layers = Json::array();
  const std::vector<LayerUse> all = engine.expert_use();
  for (size_t l = 0; l < all.size(); ++l) {
    const LayerUse& use = all[l];
    if (use.device_slots + use.host_slots == 0) continue;
    layers.push_back({{"layer", l},
                      {"hit_rate", use.hit_rate()},
                      {"device_slots", use.device_slots},
                      {"streamed_slots", use.streamed_slots},
                      {"host_slots", use.host_slots},
                      {"skipped_slots", use.skipped_slots},
                      {"skip_rate", use.skip_rate()},
                      {"host_ms", 1e3 * use.host_s},
                      {"device_ms", 1e3 * use.device_s},
                      {"link_ms", 1e3 * use.link_s},
                      {"moves", use.moves},
                      {"moved_bytes", use.moved_bytes},
                      {"streamed_bytes", use.streamed_bytes}});
  }
  const std::vector<ExpertLayer> map = engine.expert_map();
  return {{"object", "experts"},
          {"generated_tokens", service.generated.load()},
          {"skip_rate", slots_of(map).skip_rate()},
          {"layers", layers},
          {"map", map_json(map)}};
}

Json model_json(const Service& service, const std::string& name, std::time_t created) {
  const Engine& engine = service.engine;
  return {{"id", name},
          {"object", "model"},
          {"created", created},
          {"owned_by", "moebius"},
          {"type", "model"},  // from here on as Anthropic's clients read it
          {"display_name", name},
          {"created_at", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(created))},
          {"lifecycle", "active"},
          {"max_input_tokens", engine.options().context},
          {"meta", {{"n_ctx", engine.options().context}, {"n_vocab", engine.config().vocab}}}};
}

// As vLLM marks an adapter: root is what it is, parent the model that it belongs to.
Json adapter_json(const Service& service, const OfferedAdapter& adapter) {
  Json json = model_json(service, adapter.name, adapter.loaded);
  json["root"] = adapter.name;
  json["parent"] = service.options.models.front();
  json["description"] = adapter.description;
  return json;
}

Json shelved_json(const Service& service, const ShelvedAdapter& adapter) {
  Json json = model_json(service, adapter.name, adapter.created);
  json["root"] = adapter.name;
  json["parent"] = service.options.models.front();
  return json;
}

}  // namespace

void add_model_routes(Router& router, Service& service) {
  const auto health = [&service](Exchange& e) {
    if (service.draining) {
      return service.refuse(e, shutting_down());
    }
    e.answer({{"status", "ok"}});
  };
  // Whether more requests should come here: for load balancers, which have no key.
  const auto ready = [&service](Exchange& e) {
    if (service.draining) return service.refuse(e, shutting_down());
    if (service.scheduler.stats().waiting >= service.options.queue)
      return service.refuse(e, unavailable("not now", "not_ready", service.pace.seconds_to_next()));
    e.answer({{"status", "ready"}});
  };
  for (Route open : {Route{"GET", "/health", health}, Route{"GET", "/ready", ready}}) {
    open.open = true;
    router.add(std::move(open));
  }
  router.get("/metrics", [&service](Exchange& e) {
    const SchedulerStats now = service.scheduler.stats();
    e.response.set_content(
        service.metrics.text(now, service.engine.expert_use(), service.engine.expert_map()),
        "text/plain; version=0.0.4; charset=utf-8");
  });
  Route slots = {"GET", "/slots", [&service](Exchange& e) {
                   e.answer(service.slots.json(service.engine.options().sessions));
                 }};
  slots.admin = true;
  router.add(std::move(slots));
  router.get("/version", [&service](Exchange& e) { e.answer({{"version", service.options.version}}); });
  router.get("/v1/models", [&service](Exchange& e) {
    Json all = Json::array({model_json(service, service.options.models.front(), service.created)});
    for (const OfferedAdapter& a : service.adapters.list()) all.push_back(adapter_json(service, a));
    for (const ShelvedAdapter& a : service.adapters.shelved()) all.push_back(shelved_json(service, a));
    e.answer({{"object", "list"},
              {"has_more", false},
              {"first_id", all.front()["id"]},
              {"last_id", all.back()["id"]},
              {"data", std::move(all)}});
  });
  router.get("/v1/models/{id*}", [&service](Exchange& e) {
    const std::vector<std::string>& names = service.options.models;
    const std::string& id = e.arguments[0];
    if (std::ranges::find(names, id) != names.end())
      return e.answer(model_json(service, id, service.created));
    if (const auto offered = service.adapters.find(id)) return e.answer(adapter_json(service, *offered));
    const std::vector<ShelvedAdapter> shelf = service.adapters.shelved();
    if (const auto at = std::ranges::find(shelf, id, &ShelvedAdapter::name); at != shelf.end())
      return e.answer(shelved_json(service, *at));
    service.refuse(e, model_not_found(names.front()));
  });
  router.get("/v1/experts", [&service](Exchange& e) { e.answer(experts_json(service)); });
}

}  // namespace moebius
