// PrefixStore: cold pages of the PrefixCache in a folder, so that a prefix which gave way to others, or was
// computed before a restart, is read instead of computed again.
//
// A file holds one page: its tokens, the key of what comes before them, and the page's bytes, followed by a
// SHA-256 of all that. Keys are chains of SHA-256 from the namespace over the tokens, so that no two
// prefixes and no two namespaces meet; what is read is compared all the same, and a file that does not hold
// what it should is removed. Files come under their names by rename and are not waited for (no fsync): what a
// crash leaves torn does not pass the check. The folder and its files are for the user alone, for they hold
// what was said.
//
// One thread may call put() and get(); a thread of the store writes.
#pragma once

#include <array>
#include <condition_variable>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "kernels/status.h"

namespace moebius {

using PrefixKey = std::array<unsigned char, 32>;
PrefixKey prefix_root(std::string_view space);
PrefixKey prefix_child(const PrefixKey& parent, std::span<const int32_t> tokens);

class PrefixStore {
 public:
  // Makes the folder if it is missing, and knows what earlier runs left there. bytes: that its files may take
  // together; the least recently used go first. kIo: the folder cannot be used.
  static Result<std::unique_ptr<PrefixStore>> open(const std::string& folder, int64_t bytes);
  ~PrefixStore();  // after all that was put is written

  bool has(const PrefixKey& key) const;
  // Keeps a page, which follows what `parent` stands for, unless it is there already. With too much waiting
  // to be written, wait or give it up.
  void put(const PrefixKey& parent, std::span<const int32_t> tokens, std::vector<char> page, bool wait);
  // The page, into memory of its size. False: it is not there, or not what it should be.
  bool get(const PrefixKey& parent, std::span<const int32_t> tokens, std::span<char> page);

  // A text under a name of its own, checked like pages, beside them and not counted.
  Status put_text(const std::string& name, std::string_view text);
  Result<std::string> get_text(const std::string& name) const;

  struct Stats {
    int64_t pages = 0, bytes = 0;
    int64_t written = 0, read = 0, broken = 0, dropped = 0;  // pages, since the start
  };
  Stats stats() const;

 private:
  struct Entry {
    int64_t bytes = 0;
    std::list<PrefixKey>::iterator order;
  };
  struct Waiting {
    PrefixKey key;
    std::string text;  // of the file, but for the digest
  };
  PrefixStore(std::string folder, int64_t bytes) : folder_(std::move(folder)), most_(bytes) {}
  Status read_folder();
  std::string path_of(const PrefixKey& key) const;
  void add(const PrefixKey& key, int64_t bytes);  // with the mutex locked
  void forget(const PrefixKey& key);              // likewise; and its file
  void write();

  const std::string folder_;
  const int64_t most_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<PrefixKey, Entry> entries_;
  std::list<PrefixKey> order_;  // the last used first
  std::deque<Waiting> waiting_;
  Stats stats_;
  bool stop_ = false;
  std::thread writer_;
};

}  // namespace moebius
