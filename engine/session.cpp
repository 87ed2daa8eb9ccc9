#include "engine/session.h"

#include <algorithm>

#include <fmt/format.h>

#include "models/safetensors.h"

namespace moebius {

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::~Session() = default;

std::span<const float> Session::logits() const { return impl_->logits; }
std::span<const int32_t> Session::tokens() const { return impl_->tokens; }
int64_t Session::reused() const { return impl_->reused; }
int64_t Session::context() const { return impl_->parts.context; }

Session::Impl::~Impl() {
  static_cast<void>(wait_for(parts.model));  // who steps next will hear of an error again
  parts.cache.release(pages);
}

Status check_ids(const SessionParts& parts, std::span<const int32_t> ids) {
  if (ids.empty()) return invalid("the prompt is empty; give at least one token");
  if (static_cast<int64_t>(ids.size()) > parts.context) {
    return invalid(
        fmt::format("the prompt has {} tokens, the context holds {}; shorten it or raise --ctx-size",
                    ids.size(), parts.context));
  }
  for (int32_t id : ids) {
    if (id < 0 || id >= parts.model.config.vocab) {
      return invalid(fmt::format("token id {} is out of range; the vocabulary has {} ids", id,
                                 parts.model.config.vocab));
    }
  }
  return Status();
}

std::string Session::Impl::fingerprint() const {
  return adapter ? parts.fingerprint + ' ' + adapter->fingerprint() : parts.fingerprint;
}

void Session::Impl::truncate(int64_t count) {
  if (count < static_cast<int64_t>(tokens.size())) logits.clear();
  tokens.resize(static_cast<size_t>(count));
}

Status Session::Impl::give_up(Status status) {
  clear_error(parts.model);
  truncate(0);
  return status;
}

// Waits for the device.
Status Session::Impl::settle() {
  Status status = wait_for(parts.model);
  return status.ok() ? status : give_up(std::move(status));
}

// body(rows of one page, byte offset of the first among all rows) for the pages of positions [0, n).
template <class Body>
void Session::Impl::for_each_page(int64_t layer, int64_t n, const Body& body) const {
  const CacheView view = parts.cache.view(pages, layer);
  const int64_t row_bytes = parts.cache.row_bytes();
  for (int64_t p = 0; p < n; p += view.page_tokens)
    body(view.row(p), p * row_bytes, static_cast<size_t>(std::min(view.page_tokens, n - p) * row_bytes));
}

Result<Workspace> Session::Impl::advance(std::span<const int32_t> ids) {
  const std::span<const int32_t> rest = ids.subspan(tokens.size());
  const int64_t n = prompt_part(std::ssize(rest), parts.chunk);
  const Extension part{this, rest.first(static_cast<size_t>(n)), n == std::ssize(rest)};
  MOEBIUS_TRY(extend({&part, 1}));
  Workspace ws = parts.workspace.view(n);
  all_rows = {0, n, adapter.get()};
  if (adapter) ws.runs = {&all_rows, 1};
  return ws;
}

Status Session::Impl::begin_streamed(std::span<const int32_t> ids) {
  const int64_t done = std::ssize(tokens);
  const int64_t n = prompt_part(std::ssize(ids) - done, parts.prefill->pass_tokens());
  MOEBIUS_TRY(settle());
  MOEBIUS_TRY(parts.cache.reserve(pages, done, done + n));
  next_step(parts.model);
  parts.prefill->begin(parts.model, parts.cache, pages, parts.workspace, parts.chunk,
                       ids.subspan(tokens.size(), static_cast<size_t>(n)), done);
  return Status();
}

Result<bool> Session::Impl::slice_streamed(std::span<const int32_t> ids) {
  StreamedPrefill& prefill = *parts.prefill;
  if (Status status = prefill.step(); !status.ok()) return give_up(std::move(status));
  if (!prefill.done()) return false;
  const std::span<const int32_t> part = prefill.ids();
  tokens.insert(tokens.end(), part.begin(), part.end());
  logits.clear();
  if (tokens.size() < ids.size()) return true;
  const Workspace ws = prefill.last_slice();
  const Result<Tensor> row = head_forward(parts.model, ws, ws.x.shape[0] - 1, 1);
  if (!row.ok()) return give_up(row.status());
  logits.assign(row->f32(), row->f32() + parts.model.config.vocab);
  return true;
}

Status Session::Impl::advance_streamed(std::span<const int32_t> ids, const Progress& progress) {
  const int64_t done = std::ssize(tokens), total = std::ssize(ids);
  MOEBIUS_TRY(begin_streamed(ids));
  const double n = static_cast<double>(parts.prefill->ids().size());
  while (true) {
    MOEBIUS_ASSIGN(const bool passed, slice_streamed(ids));
    if (passed) return Status();
    const int64_t so_far = done + static_cast<int64_t>(n * parts.prefill->part_done());
    if (progress && !progress(std::min(so_far, total - 1), total)) return {Code::kCancelled, "cancelled"};
  }
}

Status Session::sync(std::span<const int32_t> ids, const Progress& progress) {
  MOEBIUS_TRY(check_ids(impl_->parts, ids));
  const std::vector<int32_t>& have = impl_->tokens;
  const int64_t total = static_cast<int64_t>(ids.size());
  int64_t common = std::mismatch(have.begin(), have.end(), ids.begin(), ids.end()).first - have.begin();
  // The last token is computed again when its logits are not at hand.
  if (common == total && (have.size() != ids.size() || impl_->logits.empty())) --common;
  impl_->truncate(common);
  impl_->reused = common;
  while (static_cast<int64_t>(have.size()) < total) {
    if (progress && !progress(static_cast<int64_t>(have.size()), total))
      return {Code::kCancelled, "cancelled"};
    if (impl_->streaming_pays(total - std::ssize(have))) {
      MOEBIUS_TRY(impl_->advance_streamed(ids, progress));
    } else {
      MOEBIUS_TRY(impl_->advance(ids).status());
    }
  }
  return Status();
}

Status Session::append(int32_t id) {
  const Extension more{impl_.get(), {&id, 1}};
  return extend({&more, 1});
}

Status Session::repeat(int64_t count) {
  Impl& s = *impl_;
  const int64_t n = std::ssize(s.tokens);
  MOEBIUS_CHECK(n > 0 && count >= n);
  if (count > s.parts.context)
    return invalid(fmt::format("the context of {} tokens is full; raise --ctx-size", s.parts.context));
  MOEBIUS_TRY(s.settle());
  MOEBIUS_TRY(s.parts.cache.reserve(s.pages, n, count));
  const size_t row_bytes = static_cast<size_t>(s.parts.cache.row_bytes());
  for (int64_t l = 0; l < s.parts.model.config.layers; ++l) {
    const CacheView view = s.parts.cache.view(s.pages, l);
    for (int64_t p = n; p < count; ++p)
      s.parts.model.backend.copy_bytes(Stream::kCompute, view.row(p % n), view.row(p), row_bytes);
  }
  for (int64_t p = n; p < count; ++p) s.tokens.push_back(s.tokens[static_cast<size_t>(p % n)]);
  s.logits.clear();
  return s.settle();
}

Status Session::sync_all(std::span<const int32_t> ids, const Rows& rows) {
  MOEBIUS_TRY(check_ids(impl_->parts, ids));
  impl_->truncate(0);
  impl_->reused = 0;
  while (impl_->tokens.size() < ids.size()) {
    const int64_t first = static_cast<int64_t>(impl_->tokens.size());
    MOEBIUS_ASSIGN(const Workspace ws, impl_->advance(ids));
    const int64_t n = ws.x.shape[0];
    for (int64_t begin = 0; begin < n; begin += kLogitRows) {
      const int64_t count = std::min(kLogitRows, n - begin);
      const Result<Tensor> logits = head_forward(impl_->parts.model, ws, begin, count);
      if (!logits.ok()) return impl_->give_up(logits.status());
      MOEBIUS_TRY(rows(first + begin, {logits->f32(), static_cast<size_t>(logits->numel())}));
    }
  }
  return Status();
}

Status Session::save(const std::string& path) const {
  const Impl& s = *impl_;
  const int64_t n = static_cast<int64_t>(s.tokens.size());
  SafetensorsWriter writer(path, {{"format", "moebius session 1"}, {"model", s.fingerprint()}});
  writer.declare("tokens", DType::kI32, {n});
  writer.declare("logits", DType::kF32, {static_cast<int64_t>(s.logits.size())});
  const DType type = s.parts.cache.dtype();
  const int64_t numbers = s.parts.cache.row_bytes() / static_cast<int64_t>(dtype_bytes(type));
  for (int64_t l = 0; l < s.parts.model.config.layers; ++l) {
    writer.declare(fmt::format("cache.{}", l), type, {n, numbers});
  }
  MOEBIUS_TRY(writer.append(s.tokens.data(), s.tokens.size() * sizeof(int32_t)));
  MOEBIUS_TRY(writer.append(s.logits.data(), s.logits.size() * sizeof(float)));
  Backend& be = s.parts.model.backend;
  const size_t layer_bytes = static_cast<size_t>(n * s.parts.cache.row_bytes());
  MOEBIUS_ASSIGN(const Buffer rows, be.alloc_pinned(layer_bytes));
  for (int64_t l = 0; l < s.parts.model.config.layers; ++l) {
    s.for_each_page(l, n, [&](const void* page, int64_t offset, size_t bytes) {
      be.copy_bytes(Stream::kCompute, page, rows.as<char>() + offset, bytes);
    });
    MOEBIUS_TRY(be.sync());
    MOEBIUS_TRY(writer.append(rows.data(), layer_bytes));
  }
  return writer.finish();
}

Status Session::restore(const std::string& path) {
  Impl& s = *impl_;
  MOEBIUS_ASSIGN(const std::unique_ptr<SafetensorsFile> file, SafetensorsFile::open(path));
  bool same_model = false;
  for (const auto& [name, value] : file->metadata())
    same_model |= name == "model" && value == s.fingerprint();
  if (!same_model)
    return invalid(fmt::format("{}: not a session of this model and adapter; start a new one", path));
  const auto find = [&](const std::string& name, DType dtype) -> const TensorEntry* {
    for (const TensorEntry& t : file->tensors()) {
      if (t.name == name && t.dtype == dtype) return &t;
    }
    return nullptr;
  };
  const TensorEntry* tokens = find("tokens", DType::kI32);
  const TensorEntry* logits = find("logits", DType::kF32);
  const Status broken = invalid(
      fmt::format("{}: tensors are missing or of another cache type; use the same --cache-type", path));
  if (!tokens || !logits || tokens->shape.size() != 1) return broken;
  const int64_t n = tokens->shape[0];
  const bool has_logits = logits->bytes == s.parts.model.config.vocab * static_cast<int64_t>(sizeof(float));
  if (n > s.parts.context || (!has_logits && logits->bytes != 0)) return broken;
  std::vector<int32_t> ids(static_cast<size_t>(n));
  if (n > 0) std::memcpy(ids.data(), tokens->data, static_cast<size_t>(tokens->bytes));
  if (n > 0) MOEBIUS_TRY(check_ids(s.parts, ids));
  const int64_t row_bytes = s.parts.cache.row_bytes();
  std::vector<const TensorEntry*> layers;
  for (int64_t l = 0; l < s.parts.model.config.layers; ++l) {
    layers.push_back(find(fmt::format("cache.{}", l), s.parts.cache.dtype()));
    if (!layers.back() || layers.back()->bytes != n * row_bytes) return broken;
  }
  MOEBIUS_TRY(s.parts.cache.reserve(s.pages, 0, n));
  for (int64_t l = 0; l < s.parts.model.config.layers; ++l) {
    const char* from = static_cast<const char*>(layers[static_cast<size_t>(l)]->data);
    s.for_each_page(l, n, [&](void* page, int64_t offset, size_t bytes) {
      s.parts.model.backend.copy_bytes(Stream::kCompute, from + offset, page, bytes);
    });
  }
  MOEBIUS_TRY(s.settle());
  s.tokens = std::move(ids);
  s.logits.resize(has_logits ? static_cast<size_t>(s.parts.model.config.vocab) : 0);
  if (has_logits) std::memcpy(s.logits.data(), logits->data, static_cast<size_t>(logits->bytes));
  return Status();
}

}  // namespace moebius
