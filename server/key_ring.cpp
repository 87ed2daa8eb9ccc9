#include "server/key_ring.h"

#include <algorithm>

#include <fmt/ranges.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>

namespace moebius {

KeyRing::Hash KeyRing::hash(std::string_view text) {
  Hash out;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), out.data());
  return out;
}

std::string KeyRing::hex(const Hash& hash) { return fmt::format("{:02x}", fmt::join(hash, "")); }

KeyRing::KeyRing(const std::vector<std::string>& keys, const std::vector<std::string>& admin_keys,
                 int64_t each)
    : each_(each) {
  exchange(keys, admin_keys);
}

void KeyRing::exchange(const std::vector<std::string>& keys, const std::vector<std::string>& admin_keys) {
  std::vector<Key> ring;
  for (const std::string& key : keys) ring.push_back({hash(key), false});
  for (const std::string& key : admin_keys) ring.push_back({hash(key), true});
  std::lock_guard lock(mutex_);
  keys_ = std::move(ring);
}

bool KeyRing::required() const {
  std::lock_guard lock(mutex_);
  return !keys_.empty();
}

bool KeyRing::has_admin() const {
  std::lock_guard lock(mutex_);
  return std::any_of(keys_.begin(), keys_.end(), [](const Key& key) { return key.admin; });
}

KeyHolder KeyRing::find(std::string_view key) const {
  const Hash candidate = hash(key);
  std::lock_guard lock(mutex_);
  KeyHolder holder;
  holder.known = keys_.empty();
  for (const Key& own : keys_) {
    if (CRYPTO_memcmp(own.hash.data(), candidate.data(), candidate.size()) != 0) continue;
    holder.known = true;
    holder.admin |= own.admin;
    holder.name = hex(own.hash);
    // A hash of the hash: it may be written down with the cache, and no key can be found from it.
    if (keys_.size() > 1) holder.space = hex(hash("cache " + holder.name));
  }
  return holder;
}

std::shared_ptr<void> KeyRing::enter(const KeyHolder& holder) {
  std::lock_guard lock(places_->mutex);
  int64_t& taken = places_->taken[holder.name];
  if (!holder.name.empty() && taken >= each_) return nullptr;
  ++taken;
  return {static_cast<void*>(places_.get()), [places = places_, name = holder.name](void*) {
            std::lock_guard own(places->mutex);
            if (--places->taken[name] == 0) places->taken.erase(name);
          }};
}

}  // namespace moebius
