// How fast a placement will be: the arithmetic behind plan_model.
#pragma once

#include <vector>

#include "engine/placement.h"

namespace moebius {

// A routed expert of some layer. Lists of them are in the order in which they deserve the device.
struct PlacedExpert {
  int32_t layer = 0, index = 0;
  double bytes = 0, weights = 0;
  double share = 0;   // of the picks of a token in its layer; all of them and the zero experts' make 1
  double chance = 0;  // that a token picks it
  bool resident = false, in_ram = true;
};

// Hottest first; where nothing tells them apart, the first expert of each layer, then the second, and so on.
std::vector<PlacedExpert> experts_by_heat(const ModelBytes& model, const ExpertHeat& heat);

struct SpeedModel {
  const ModelBytes& model;
  const MachineSpeeds& speeds;
  PlanShape shape;
  int64_t prompt;         // tokens
  int64_t adapter_bytes;  // read with the attention
  int64_t ram_missing;    // bytes that every pass reads from disk

  DecodePrediction decode(const std::vector<PlacedExpert>& experts, int64_t tokens) const;
  // Of as many tokens in two halves, the host computing for one while the device is at the other: the busier
  // of the two, and a layer's way before both are busy. Infinite without cold experts.
  double decode_in_two_s(const std::vector<PlacedExpert>& experts, int64_t tokens) const;
  // In passes of so many tokens, and one of the rest. frame: whether experts can be streamed and residents
  // shared, and the most that the link does ahead; its other times are filled in.
  PrefillPrediction prefill(const std::vector<PlacedExpert>& experts, int64_t pass,
                            const LayerFrame& frame) const;

  // seconds[n]: of a decoded token with the first n experts resident and the others in RAM, whatever their
  // flags say.
  std::vector<double> decode_by_residents(const std::vector<PlacedExpert>& experts) const;

 private:
  // Picked experts of one place in a layer: their share of a token's picks, their time, and that of reading
  // them.
  struct Picks {
    double share = 0, seconds = 0, read_s = 0;
  };
  // Shared and picked experts of a layer while tokens are decoded.
  struct LayerTimes {
    double shared_s = 0;
    Picks resident, ram, disk;
    int64_t cold = 0;  // experts that the CPU may be asked for
  };
  std::vector<LayerTimes> shared_times(double tokens) const;
  // Of a layer in which so much is picked of each place: what is on disk is read while the rest is computed.
  double picked_s(const LayerTimes& layer, double resident_s, double ram_s, const Picks& disk) const;
  double layer_s(const LayerTimes& layer, int64_t tokens) const;
  double expected_s(const LayerTimes& layer) const;
  bool hybrid() const { return shape != PlanShape::kHost; }
  double time_of(double bytes, double weights, double tokens, bool on_device) const;
  double time_of(const ClassSize& size, double tokens, bool on_device) const;
  double expert_s(const PlacedExpert& expert, double tokens, bool on_device) const;
  // With router, dense layer, and an even share of what is not one layer's; without pairs of tokens.
  double attention_s(const LayerBytes& layer, int64_t tokens) const;
  double head_s(int64_t tokens) const;
  // As prefill(), but seconds are those of one pass of so many tokens, without the head.
  PrefillPrediction pass_of(const std::vector<PlacedExpert>& experts, int64_t tokens, LayerFrame frame) const;
};

}  // namespace moebius
