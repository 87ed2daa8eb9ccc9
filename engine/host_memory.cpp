#include "engine/host_memory.h"

#include <fmt/format.h>

#include "engine/kv_cache.h"
#include "engine/placement.h"

namespace moebius {
namespace {

// What to do for a cache of at most `pages`; "" where that holds nothing.
std::string smaller_cache(const HostMemory& needs, int64_t pages) {
  if (pages == 0) return "";
  if (needs.cache_tokens != needs.context * needs.sessions)
    return fmt::format("lower --cache-tokens to {}", pages * kPageTokens);
  const int64_t context = pages / needs.sessions * kPageTokens;
  const int64_t sessions = pages / pages_of(needs.context);
  std::string text;
  if (context > 0) text = fmt::format("lower --ctx-size to {}", context);
  if (sessions > 0) text += fmt::format("{}--parallel to {}", text.empty() ? "lower " : ", or ", sessions);
  return text;
}

std::string remedy(const HostMemory& needs, int64_t usable) {
  if (needs.weights > 0) return "use --load mapped";
  const int64_t room = usable - needs.others;
  if (needs.cache > 0 && room > 0) {
    const int64_t page_bytes = needs.cache / pages_of(needs.cache_tokens);
    if (const std::string smaller = smaller_cache(needs, room / page_bytes); !smaller.empty()) return smaller;
  }
  return fmt::format("lower {}--ctx-size or --prefill-chunk", needs.sessions > 1 ? "--parallel, " : "");
}

}  // namespace

Status check_host_memory(const HostMemory& needs, int64_t ram) {
  const int64_t usable = usable_ram(ram);
  if (needs.all() <= usable) return Status();
  const std::string cache = needs.cache > 0 ? fmt::format("a cache of {} tokens, ", needs.cache_tokens) : "";
  return no_memory(fmt::format(
      "--ram: {}activations and what else must stay in the host's memory take {} bytes ({}), and "
      "{} of {} may be used; {}",
      cache, needs.all(), gib_text(needs.all()), gib_text(usable), gib_text(ram), remedy(needs, usable)));
}

}  // namespace moebius
