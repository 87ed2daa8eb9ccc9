#include "engine/expert_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <new>
#include <string>
#include <system_error>

#include "engine/options.h"
#include "kernels/mapped.h"

namespace moebius {
namespace {

constexpr int kReaders = 4;         // a disk answers several large reads faster than one
constexpr int64_t kPage = 4096;     // of what may be read past the page cache
constexpr int64_t kGap = 64 << 10;  // between an expert's matrices, that is read along

int64_t round_down(int64_t bytes) { return bytes / kPage * kPage; }
int64_t round_up(int64_t bytes) { return round_down(bytes + kPage - 1); }

// Another opening of the file, past the page cache.
int open_direct(int file) {
#ifdef O_DIRECT
  return ::open(("/proc/self/fd/" + std::to_string(file)).c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
#else
  return -1;
#endif
}

// At least `bytes`; `room` are asked for, since past the page cache only whole pages may be.
bool read_all(int file, int64_t offset, char* to, int64_t bytes, int64_t room) {
  for (int64_t done = 0; done < bytes;) {
    const ssize_t got = pread(file, to + done, static_cast<size_t>(room - done), offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    done += got;
  }
  return true;
}

}  // namespace

std::vector<ExpertPart> expert_parts(const ExpertWeights& expert) {
  std::vector<ExpertPart> parts;
  for (const Matrix* w : {&expert.gate, &expert.up, &expert.down}) {
    const int64_t data = w->rows * w->row_bytes();
    parts.push_back({static_cast<const char*>(w->data), data});
    if (w->scales) parts.push_back({static_cast<const char*>(w->scales), w->bytes() - data});
  }
  std::ranges::sort(parts, {}, &ExpertPart::data);
  return parts;
}

// Addresses for all slots, which take memory as they are filled.
struct ExpertCache::Arena {
  explicit Arena(int64_t size) : bytes(static_cast<size_t>(size)) {
    void* const at = mmap(nullptr, bytes + kLargePage, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return;
    mapped = static_cast<char*>(at);
    data = mapped + (kLargePage - reinterpret_cast<uintptr_t>(at) % kLargePage) % kLargePage;
    prefer_large_pages(data, bytes);
  }
  ~Arena() {
    if (mapped) munmap(mapped, bytes + kLargePage);
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  size_t bytes;
  char* mapped = nullptr;
  char* data = nullptr;  // begins with a large page
};

ExpertCache::ExpertCache(const Weights& weights, const std::vector<MappedFile>& files, const Options& options)
    : options_(options) {
  for (const MappedFile& file : files) direct_.push_back(open_direct(file.file));
  for (const LayerWeights& layer : weights.layers) {
    std::deque<Expert>& experts = experts_.emplace_back();
    for (const ExpertWeights& expert : layer.experts) {
      find_pieces(expert, files, experts.emplace_back());
      experts.back().place = elsewhere_.insert(elsewhere_.end(), &experts.back());
    }
  }
  jobs_.reserve(elsewhere_.size());
  if (slot_bytes_ > 0) slots_ = std::max<int64_t>(0, options.capacity) / slot_bytes_;
  arena_ = std::make_unique<Arena>(slots_ * slot_bytes_);
  if (!arena_->data) slots_ = 0;
  for (int64_t slot = slots_ - 1; slot >= 0; --slot) free_.push_back(slot);
  readers_.reserve(kReaders);
  try {
    while (std::ssize(readers_) < kReaders) readers_.emplace_back([this] { read(); });
  } catch (const std::system_error&) {  // fewer threads read more slowly
  }
  if (readers_.empty()) free_.clear();
}

ExpertCache::~ExpertCache() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  work_.notify_all();
  readers_.clear();
  for (const int file : direct_)
    if (file >= 0) ::close(file);
}

void ExpertCache::find_pieces(const ExpertWeights& weights, const std::vector<MappedFile>& files,
                              Expert& expert) {
  int64_t bytes = 0;
  for (const ExpertPart& part : expert_parts(weights)) {
    const auto file = std::ranges::find_if(files, [&](const MappedFile& f) { return f.holds(part.data); });
    if (file == files.end()) {  // in memory anyhow
      expert = Expert();
      return;
    }
    const int64_t begin = round_down(part.data - file->data),
                  end = round_up(part.data + part.bytes - file->data);
    Piece* last = expert.pieces.empty() ? nullptr : &expert.pieces.back();
    if (last && last->file == file->file && begin - (last->offset + last->bytes) <= kGap) {
      bytes -= last->bytes;
      last->bytes = std::max(last->bytes, end - last->offset);
    } else {
      const int direct = direct_[static_cast<size_t>(file - files.begin())];
      last =
          &expert.pieces.emplace_back(Piece{file->file, direct, begin, end - begin, file->data + begin, 0});
    }
    bytes += last->bytes;
    last->in_file = std::min(last->bytes, file->bytes - last->offset);
  }
  slot_bytes_ = std::max(slot_bytes_, bytes);
}

ExpertCache::Hold ExpertCache::ask(int64_t layer, std::span<const int32_t> experts, For use, bool ahead) {
  Hold hold;
  hold.experts_.assign(experts.begin(), experts.end());
  hold.layer_ = static_cast<size_t>(layer);
  const std::lock_guard lock(mutex_);
  hold.cache_ = this;
  std::deque<Expert>& all = experts_[hold.layer_];
  for (const int32_t id : experts) {  // first, so that none leaves for another
    Expert& expert = all[static_cast<size_t>(id)];
    ++expert.holds;
    if (use == For::kPrompt) continue;
    expert.use = use;
    if (expert.state == State::kHere) here_.splice(here_.begin(), here_, expert.place);
  }
  ptrdiff_t at = ahead ? std::ssize(jobs_) : 0;
  for (const int32_t id : experts) {
    Expert& expert = all[static_cast<size_t>(id)];
    if (expert.state == State::kOnDisk && !expert.pieces.empty()) {
      expert.slot = find_slot();
      if (expert.slot < 0) continue;
      expert.state = State::kComing, expert.use = use, ++coming_;
    } else if (ahead || std::erase(jobs_, &expert) == 0) {  // else it was a guess, and is needed now
      continue;
    }
    jobs_.insert(jobs_.begin() + at++, &expert);
  }
  work_.notify_all();
  return hold;
}

// -1: there is none. To look at the memory takes a tenth of a millisecond.
int64_t ExpertCache::find_slot() {
  const bool look = !free_.empty() || ++found_ % 64 == 0;
  // Slots that nothing was read into yet may have no memory.
  if (look && available_memory() - coming_ * slot_bytes_ < options_.spared) {
    const int64_t slot = longest_unused();
    if (slot < 0) return -1;
    madvise(arena_->data + slot * slot_bytes_, static_cast<size_t>(slot_bytes_), MADV_DONTNEED);
    free_.push_back(slot);
  } else if (!free_.empty()) {
    const int64_t slot = free_.back();
    free_.pop_back();
    return slot;
  }
  return longest_unused();
}

// Its slot; the expert is on disk now. -1: all are in use.
int64_t ExpertCache::longest_unused() {
  const auto expert =
      std::find_if(here_.rbegin(), here_.rend(), [](const Expert* e) { return e->holds == 0; });
  if (expert == here_.rend()) return -1;
  Expert& leaves = **expert;
  leaves.state = State::kOnDisk;
  elsewhere_.splice(elsewhere_.end(), here_, leaves.place);
  return std::exchange(leaves.slot, -1);
}

// A guess that was wrong is not read any more.
void ExpertCache::let_go(const Hold& hold) {
  const std::lock_guard lock(mutex_);
  for (const int32_t id : hold.experts_) {
    Expert& expert = experts_[hold.layer_][static_cast<size_t>(id)];
    if (--expert.holds == 0 && std::erase(jobs_, &expert) > 0) settle(expert, false);
  }
}

ExpertCache::Missing ExpertCache::missing(const Hold& hold) const {
  const std::lock_guard lock(mutex_);
  Missing missing;
  for (const int32_t id : hold.experts_) {
    const State state = experts_[hold.layer_][static_cast<size_t>(id)].state;
    if (state == State::kComing) missing.coming.push_back(id);
    if (state == State::kOnDisk) missing.refused.push_back(id);
  }
  return missing;
}

void ExpertCache::wait(const Hold& hold) {
  std::unique_lock lock(mutex_);
  const std::deque<Expert>& all = experts_[hold.layer_];
  settled_.wait(lock, [&] {
    return std::ranges::none_of(
        hold.experts_, [&](int32_t id) { return all[static_cast<size_t>(id)].state == State::kComing; });
  });
}

void ExpertCache::place(const Hold& hold, std::vector<ExpertWeights>& experts) const {
  const std::lock_guard lock(mutex_);
  for (const int32_t id : hold.experts_) {
    const Expert& expert = experts_[hold.layer_][static_cast<size_t>(id)];
    if (expert.state != State::kHere) continue;
    ExpertWeights& weights = experts[static_cast<size_t>(id)];
    for (Matrix* w : {&weights.gate, &weights.up, &weights.down})
      point(*w, expert, arena_->data + expert.slot * slot_bytes_);
  }
}

void ExpertCache::point(Matrix& w, const Expert& expert, const char* slot) {
  const auto placed = [&](const void* mapped) -> const void* {
    const char* at = static_cast<const char*>(mapped);
    const char* begin = slot;
    for (const Piece& piece : expert.pieces) {
      if (at >= piece.data && at < piece.data + piece.bytes) return begin + (at - piece.data);
      begin += piece.bytes;
    }
    return mapped;  // null, too
  };
  w.data = placed(w.data), w.scales = placed(w.scales);
}

bool ExpertCache::here(int64_t layer, int64_t expert) const {
  const std::lock_guard lock(mutex_);
  return experts_[static_cast<size_t>(layer)][static_cast<size_t>(expert)].state == State::kHere;
}

void ExpertCache::read() {
  std::unique_lock lock(mutex_);
  for (;;) {
    work_.wait(lock, [&] { return ends_ || !jobs_.empty(); });
    if (ends_) return;
    Expert& expert = *jobs_.front();
    jobs_.erase(jobs_.begin());
    lock.unlock();
    const bool came = fill(expert);
    lock.lock();
    settle(expert, came);
    settled_.notify_all();
  }
}

// An expert that cannot be read stays in the file, and who needs it learns there what is wrong.
void ExpertCache::settle(Expert& expert, bool came) {
  expert.state = came ? State::kHere : State::kOnDisk;
  --coming_;
  if (came) {
    here_.splice(expert.use == For::kDecoding ? here_.begin() : here_.end(), elsewhere_, expert.place);
  } else {
    free_.push_back(std::exchange(expert.slot, -1));
  }
}

// Its slot is nobody else's.
bool ExpertCache::fill(const Expert& expert) const noexcept try {
  char* to = arena_->data + expert.slot * slot_bytes_;
  for (const Piece& piece : expert.pieces) {
    const bool cached = piece.direct < 0 || in_memory(piece.data, static_cast<size_t>(piece.in_file));
    if ((cached || !read_all(piece.direct, piece.offset, to, piece.in_file, piece.bytes)) &&
        !read_all(piece.file, piece.offset, to, piece.in_file, piece.bytes))
      return false;
    to += piece.bytes;
  }
  return true;
} catch (const std::bad_alloc&) {
  return false;
}

}  // namespace moebius
