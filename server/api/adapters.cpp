// Adapters by request: POST /v1/load_lora_adapter and /v1/unload_lora_adapter as vLLM has them, GET
// /v1/lora_adapters, and GET /lora-adapters as llama.cpp has it.
#include <fmt/format.h>

#include "server/api/api.h"
#include "server/fields.h"

namespace moebius {

namespace {

// A path on this machine that a client has named is not said back to others.
Json adapter_json(const OfferedAdapter& a) {
  return {{"name", a.name}, {"description", a.description}, {"bytes", a.bytes}, {"created", a.loaded}};
}

std::optional<ApiError> read(const Json& body, bool with_path, std::string& name, std::string& path) {
  Fields in(body);
  in.text("lora_name", name);
  if (with_path) in.text("lora_path", path);
  if (name.empty()) in.fail("lora_name", "is missing");
  if (with_path && path.empty()) in.fail("lora_path", "is missing");
  return in.error();
}

std::optional<ApiError> load(Service& service, const Json& body, std::string& name) {
  if (service.options.adapter_dir.empty())
    return forbidden("this server loads no adapters on request; start it with --adapter-dir",
                     "no_adapter_dir");
  std::string path;
  if (auto error = read(body, true, name, path)) return error;
  bool again = false;
  Fields in(body);
  in.boolean("load_inplace", again);
  if (in.failed()) return in.error();
  const Result<std::string> folder = inside_folder(service.options.adapter_dir, path);
  if (!folder.ok()) return bad_request(folder.status().message(), "lora_path", "adapter_not_found");
  if (const Status loaded = service.adapters.load(name, *folder, again); !loaded.ok()) {
    // What is wrong with the files, without where they lie.
    std::string message = loaded.message();
    for (size_t at; (at = message.find(*folder)) != std::string::npos;)
      message.replace(at, folder->size(), path);
    return bad_request(std::move(message), {}, "adapter_refused");
  }
  return {};
}

std::optional<ApiError> unload(Service& service, const Json& body, std::string& name) {
  if (service.options.adapter_dir.empty())
    return forbidden("this server unloads no adapters on request; start it with --adapter-dir",
                     "no_adapter_dir");
  std::string path;
  if (auto error = read(body, false, name, path)) return error;
  if (service.adapters.unload(name)) return {};
  ApiError error = bad_request("no adapter of that name is loaded", "lora_name", "adapter_not_found");
  error.status = 404;
  return error;
}

using Action = std::optional<ApiError> (*)(Service&, const Json&, std::string&);

void act(Service& service, Exchange& e, Action action, const char* done) {
  std::string name;
  if (auto error = action(service, e.body, name)) return service.refuse(e, *error);
  service.log.info("{} {}", e.route.pattern, name);
  e.response.set_content(fmt::format("Success: LoRA adapter '{}' {} successfully.", name, done),
                         "text/plain; charset=utf-8");
}

}  // namespace

void add_adapter_routes(Router& router, Service& service) {
  router.post_admin("/v1/load_lora_adapter", [&service](Exchange& e) { act(service, e, load, "added"); });
  router.post_admin("/v1/unload_lora_adapter",
                    [&service](Exchange& e) { act(service, e, unload, "removed"); });
  router.get("/v1/lora_adapters", [&service](Exchange& e) {
    Json all = Json::array();
    for (const OfferedAdapter& a : service.adapters.list()) all.push_back(adapter_json(a));
    e.answer({{"object", "list"}, {"data", std::move(all)}});
  });
  // Requests choose by these numbers; scale 0: one that does not is answered by the model itself.
  router.get("/lora-adapters", [&service](Exchange& e) {
    Json all = Json::array();
    for (const OfferedAdapter& a : service.adapters.list())
      all.push_back({{"id", all.size()}, {"path", a.name}, {"scale", 0.0}});
    e.answer(all);
  });
}

}  // namespace moebius
