#include "engine/expert_ring.h"

#include "engine/uploader.h"

namespace moebius {

Result<ExpertRing> ExpertRing::create(int64_t places, int64_t place_bytes, Backend& backend) {
  MOEBIUS_CHECK(places >= 2);
  ExpertRing ring(backend);
  ring.place_bytes_ = place_bytes;
  ring.places_.resize(static_cast<size_t>(places));
  MOEBIUS_ASSIGN(ring.memory_, backend.alloc(static_cast<size_t>(places * place_bytes)));
  return ring;
}

ExpertWeights ExpertRing::load(const ExpertWeights& expert) {
  MOEBIUS_CHECK(next_ - first_unused_ < places_.size(), "every place holds an expert that is not used yet");
  const size_t at = next_++ % places_.size();
  Place& place = places_[at];
  if (place.taken) backend_->wait(Stream::kLoad, place.free);
  place.taken = true;
  ExpertWeights loaded = expert;
  Uploader uploader(memory_.as<char>() + static_cast<int64_t>(at) * place_bytes_, backend_);
  uploader.put(loaded.gate), uploader.put(loaded.up), uploader.put(loaded.down);
  MOEBIUS_CHECK(uploader.used() <= place_bytes_);
  backend_->wait(Stream::kCompute, backend_->record(Stream::kLoad));
  return loaded;
}

void ExpertRing::used() {
  const Event free = backend_->record(Stream::kCompute);
  for (; first_unused_ < next_; ++first_unused_) places_[first_unused_ % places_.size()].free = free;
}

}  // namespace moebius
