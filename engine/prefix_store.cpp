#include "engine/prefix_store.h"

#include <fcntl.h>
#include <openssl/sha.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include <fmt/format.h>

#include "models/file_io.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMagic = "moebius prefix 1\n";
constexpr std::string_view kPageEnding = ".page", kTemporaryEnding = ".tmp";
constexpr size_t kMostWaiting = 32;       // pages
constexpr size_t kMostText = 1ull << 30;  // bytes of a file

PrefixKey digest_of(std::string_view text) {
  PrefixKey digest;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return digest;
}

std::string_view bytes_of(const PrefixKey& key) {
  return {reinterpret_cast<const char*>(key.data()), key.size()};
}
std::string_view bytes_of(std::span<const int32_t> tokens) {
  return {reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes()};
}

// What a page's file begins with: the page's own bytes and the digest follow.
std::string head_of(const PrefixKey& parent, std::span<const int32_t> tokens) {
  std::string text(kMagic);
  text += bytes_of(parent);
  text += bytes_of(tokens);
  return text;
}

std::string hex_of(const PrefixKey& key) {
  std::string text;
  for (const unsigned char byte : key) text += fmt::format("{:02x}", byte);
  return text;
}

bool key_of(std::string_view hex, PrefixKey& key) {
  const auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  if (hex.size() != 2 * key.size()) return false;
  for (size_t i = 0; i < key.size(); ++i) {
    const int high = digit(hex[2 * i]), low = digit(hex[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    key[i] = static_cast<unsigned char>(high * 16 + low);
  }
  return true;
}

bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n <= 0) return false;
    text.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

// text and its digest, under the name at once or not at all.
Status write_checked(const std::string& path, std::string_view text) {
  const std::string temporary = path + std::string(kTemporaryEnding);
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return system_error("write", temporary, errno);
  const PrefixKey digest = digest_of(text);
  errno = 0;
  bool done = write_all(fd, text) && write_all(fd, bytes_of(digest));
  done = ::close(fd) == 0 && done;
  if (done && ::rename(temporary.c_str(), path.c_str()) == 0) return Status();
  const Status status = system_error("write", path, errno);
  ::unlink(temporary.c_str());
  return status;
}

// The same back; kInvalid when the digest is another.
Result<std::string> read_checked(const std::string& path) {
  MOEBIUS_ASSIGN(std::string text, read_text_file(path, kMostText));
  const size_t size = sizeof(PrefixKey);
  if (text.size() < size) return invalid(fmt::format("{} is cut short", path));
  const PrefixKey digest = digest_of(std::string_view(text).substr(0, text.size() - size));
  if (std::string_view(text).substr(text.size() - size) != bytes_of(digest))
    return invalid(fmt::format("{} is not what was written", path));
  text.resize(text.size() - size);
  return text;
}

}  // namespace

PrefixKey prefix_root(std::string_view space) { return digest_of(fmt::format("{}root {}", kMagic, space)); }

PrefixKey prefix_child(const PrefixKey& parent, std::span<const int32_t> tokens) {
  return digest_of(head_of(parent, tokens));
}

Result<std::unique_ptr<PrefixStore>> PrefixStore::open(const std::string& folder, int64_t bytes) {
  std::unique_ptr<PrefixStore> store(new PrefixStore(folder, bytes));
  MOEBIUS_TRY(store->read_folder());
  store->writer_ = std::thread([s = store.get()] { s->write(); });
  return store;
}

PrefixStore::~PrefixStore() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (writer_.joinable()) writer_.join();
}

// Files by the time they were last used; temporary ones of a run that ended half-way go.
Status PrefixStore::read_folder() {
  std::error_code problem;
  fs::create_directories(folder_, problem);
  if (problem) return system_error("make the folder", folder_, problem.value());
  if (::chmod(folder_.c_str(), 0700) != 0 || ::access(folder_.c_str(), W_OK) != 0)
    return system_error("write into", folder_, errno);
  std::vector<std::pair<fs::file_time_type, std::pair<PrefixKey, int64_t>>> found;
  for (fs::directory_iterator at(folder_, problem), end; !problem && at != end; at.increment(problem)) {
    std::error_code gone;
    const std::string name = at->path().filename();
    if (name.ends_with(kTemporaryEnding)) fs::remove(at->path(), gone);
    PrefixKey key;
    if (!name.ends_with(kPageEnding) || !at->is_regular_file(gone) ||
        !key_of(std::string_view(name).substr(0, name.size() - kPageEnding.size()), key))
      continue;
    found.push_back({at->last_write_time(gone), {key, static_cast<int64_t>(at->file_size(gone))}});
  }
  if (problem) return system_error("read the folder", folder_, problem.value());
  std::ranges::sort(found);
  std::lock_guard lock(mutex_);
  for (const auto& [time, file] : found) add(file.first, file.second);
  return Status();
}

std::string PrefixStore::path_of(const PrefixKey& key) const {
  return fmt::format("{}/{}{}", folder_, hex_of(key), kPageEnding);
}

void PrefixStore::add(const PrefixKey& key, int64_t bytes) {
  order_.push_front(key);
  entries_[key] = {bytes, order_.begin()};
  ++stats_.pages, stats_.bytes += bytes;
  while (stats_.bytes > most_ && !order_.empty()) forget(PrefixKey(order_.back()));
}

void PrefixStore::forget(const PrefixKey& key) {
  const auto at = entries_.find(key);
  if (at == entries_.end()) return;
  ::unlink(path_of(key).c_str());
  --stats_.pages, stats_.bytes -= at->second.bytes;
  order_.erase(at->second.order);
  entries_.erase(at);
}

bool PrefixStore::has(const PrefixKey& key) const {
  std::lock_guard lock(mutex_);
  return entries_.contains(key);
}

void PrefixStore::put(const PrefixKey& parent, std::span<const int32_t> tokens, std::vector<char> page,
                      bool wait) {
  const PrefixKey key = prefix_child(parent, tokens);
  std::unique_lock lock(mutex_);
  if (entries_.contains(key)) {
    order_.splice(order_.begin(), order_, entries_[key].order);
    return;
  }
  if (std::ranges::any_of(waiting_, [&](const Waiting& w) { return w.key == key; })) return;
  if (wait) changed_.wait(lock, [&] { return waiting_.size() < kMostWaiting; });
  if (waiting_.size() >= kMostWaiting) {
    ++stats_.dropped;
    return;
  }
  std::string text = head_of(parent, tokens);
  text.append(page.data(), page.size());
  waiting_.push_back({key, std::move(text)});
  lock.unlock();
  changed_.notify_all();
}

void PrefixStore::write() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stop_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    const Waiting& next = waiting_.front();  // stays until it can be found as a file
    const auto bytes = static_cast<int64_t>(next.text.size() + sizeof(PrefixKey));
    lock.unlock();
    const bool written = bytes <= most_ && write_checked(path_of(next.key), next.text).ok();
    lock.lock();
    if (written) add(next.key, bytes);
    ++(written ? stats_.written : stats_.dropped);
    waiting_.pop_front();
    changed_.notify_all();
  }
}

bool PrefixStore::get(const PrefixKey& parent, std::span<const int32_t> tokens, std::span<char> page) {
  const PrefixKey key = prefix_child(parent, tokens);
  if (!has(key)) return false;
  const Result<std::string> text = read_checked(path_of(key));
  const std::string head = head_of(parent, tokens);
  const bool right = text.ok() && text->size() == head.size() + page.size() && text->starts_with(head);
  std::lock_guard lock(mutex_);
  if (!right) {
    ++stats_.broken;
    forget(key);
    return false;
  }
  std::memcpy(page.data(), text->data() + head.size(), page.size());
  ++stats_.read;
  if (const auto at = entries_.find(key); at != entries_.end())
    order_.splice(order_.begin(), order_, at->second.order);
  ::utimensat(AT_FDCWD, path_of(key).c_str(), nullptr, 0);  // for the next run's order
  return true;
}

Status PrefixStore::put_text(const std::string& name, std::string_view text) {
  return write_checked(folder_ + "/" + name, text);
}

Result<std::string> PrefixStore::get_text(const std::string& name) const {
  return read_checked(folder_ + "/" + name);
}

PrefixStore::Stats PrefixStore::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace moebius
