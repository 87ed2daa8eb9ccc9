// Checkpoints of a training run: one safetensors file each, written atomically under its own name, so that
// whatever happens to a run, its last finished checkpoint is whole.
#pragma once

#include <cstdint>
#include <string>

#include "engine/train/trained.h"

namespace moebius {

// What a run remembers beside its tensors.
struct RunState {
  int64_t steps = 0;             // done
  int64_t epoch = 0, index = 0;  // of the data
  double smoothed_loss = 0, best_loss = 0;
};

// settings: a text that names all that decides the results of a run.
Status save_checkpoint(const std::string& path, const std::string& settings, const RunState& run,
                       Trained& trained);
// Restores a checkpoint of the same settings and trained tensors. kInvalid names what differs, or what is
// damaged; nothing is changed then.
Result<RunState> load_checkpoint(const std::string& path, const std::string& settings, Trained& trained);

std::string checkpoint_folder(const std::string& out);  // where a run that writes to out keeps them
std::string checkpoint_path(const std::string& dir, int64_t step);  // dir/checkpoint-<step>.safetensors
std::string newest_checkpoint(const std::string& dir);              // its path, or "" when there is none
Status prune_checkpoints(const std::string& dir, int64_t keep);     // removes all but the newest
void remove_partial_files(const std::string& dir);  // what a run that was killed had not finished writing

}  // namespace moebius
