// The routes, by API. Each call adds an API's routes; the service outlives the router.
#pragma once

#include "server/fine_tuning.h"
#include "server/router.h"
#include "server/service.h"

namespace moebius {

void add_model_routes(Router& router, Service& service);  // health, ready, version, metrics, models, experts
void add_adapter_routes(Router& router, Service& service);  // load, unload, list
void add_text_routes(Router& router, Service& service);     // tokenize, detokenize, apply-template
void add_openai_routes(Router& router, Service& service);   // chat/completions, completions
void add_embedding_routes(Router& router, Service& service);
void add_anthropic_routes(Router& router, Service& service);  // messages, messages/count_tokens
void add_responses_routes(Router& router, Service& service);  // responses and what lies under it
void add_page_route(Router& router, Service& service);        // /
// files, fine_tuning/jobs and what lies under them; null: each says that the server was started without.
void add_file_routes(Router& router, Service& service, FineTuning* tuning);
void add_fine_tuning_routes(Router& router, Service& service, FineTuning* tuning);
// On every one of these patterns, what says so.
void add_without_files(Router& router, Service& service,
                       std::initializer_list<std::pair<const char*, const char*>> routes);

}  // namespace moebius
