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

// What is queued on kLoad next finds the place free, and its gradients at home.
void ExpertRing::empty(Place& place) {
  if (place.taken) backend_->wait(Stream::kLoad, place.free);
  for (const Sums& s : place.sums)
    backend_->copy_bytes(Stream::kLoad, s.here.data, s.home.data,
                         static_cast<size_t>(s.home.numel()) * sizeof(float));
  place.sums.clear();
}

ExpertWeights ExpertRing::load(const ExpertWeights& expert, std::deque<Lora>& loras, bool gradients) {
  MOEBIUS_CHECK(next_ - first_unused_ < places_.size(), "every place holds an expert that is not used yet");
  const size_t at = next_++ % places_.size();
  Place& place = places_[at];
  empty(place);
  place.taken = true;
  ExpertWeights loaded = expert;
  Uploader uploader(memory_.as<char>() + static_cast<int64_t>(at) * place_bytes_, backend_);
  if (ns_) backend_->begin_timing(Stream::kLoad);
  uploader.put(loaded, loras, gradients);
  if (ns_) backend_->end_timing(Stream::kLoad, *ns_);
  MOEBIUS_CHECK(uploader.used() <= place_bytes_);
  for (const auto m : {&ExpertWeights::gate, &ExpertWeights::up, &ExpertWeights::down}) {
    const Lora *here = (loaded.*m).lora, *home = (expert.*m).lora;
    if (!gradients || !here) continue;
    if (!here->da.empty()) place.sums.push_back({here->da, home->da});
    if (!here->db.empty()) place.sums.push_back({here->db, home->db});
  }
  return loaded;
}

void ExpertRing::stream(const std::vector<ExpertWeights>& experts, const std::vector<Where>& where,
                        bool gradients, QueuedExperts& queued, std::vector<ExpertWeights>& been_here,
                        const std::function<void(const std::vector<ExpertWeights>&)>& compute) {
  std::vector<ExpertWeights>* together = nullptr;
  int64_t count = 0;
  const auto finish = [&] {
    arrive();
    compute(*together);
    used();
    together = nullptr, count = 0;
  };
  for (size_t e = 0; e < experts.size(); ++e) {
    if (where[e] != Where::kStreamed) continue;
    if (!together) together = &queued.lists.emplace_back(experts.size());
    (*together)[e] = been_here[e] = load(experts[e], queued.loras, gradients);
    if (++count == group()) finish();
  }
  if (together) finish();
}

void ExpertRing::give_back() {
  for (Place& place : places_)
    if (!place.sums.empty()) empty(place);
}

void ExpertRing::arrive() { backend_->wait(Stream::kCompute, backend_->record(Stream::kLoad)); }

void ExpertRing::used() {
  const Event free = backend_->record(Stream::kCompute);
  for (; first_unused_ < next_; ++first_unused_) places_[first_unused_ % places_.size()].free = free;
}

}  // namespace moebius
