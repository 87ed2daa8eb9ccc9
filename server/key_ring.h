// KeyRing: the API keys in force, as SHA-256 hashes, and how much each of them has on its way. From any
// thread; keys may be exchanged while requests are answered.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace moebius {

// Who sent a request.
struct KeyHolder {
  bool known = false;  // by a key of the ring, or because none is needed
  bool admin = false;  // may use the routes that change the server or show what all do
  std::string space;   // where there are several keys: what keeps this one's cache apart. Tells nothing of it
  std::string name;    // of the key within the ring; "": none
};

class KeyRing {
 public:
  // each: requests that one key may have on its way at once.
  KeyRing(const std::vector<std::string>& keys, const std::vector<std::string>& admin_keys, int64_t each);
  void exchange(const std::vector<std::string>& keys, const std::vector<std::string>& admin_keys);

  bool required() const;
  bool has_admin() const;
  // Takes the same time for any candidate of one length.
  KeyHolder find(std::string_view key) const;
  // A place for one request, given back with its last copy; null where the key has as many as it may.
  std::shared_ptr<void> enter(const KeyHolder& holder);

 private:
  using Hash = std::array<unsigned char, 32>;
  struct Key {
    Hash hash;
    bool admin;
  };
  struct Places {
    std::mutex mutex;
    std::map<std::string, int64_t> taken;  // by the name of the key
  };
  static Hash hash(std::string_view text);
  static std::string hex(const Hash& hash);

  const int64_t each_;
  const std::shared_ptr<Places> places_ = std::make_shared<Places>();
  mutable std::mutex mutex_;
  std::vector<Key> keys_;
};

}  // namespace moebius
