// Constraints: from what a request says to what the engine enforces. Compiled ones are kept, so that a schema
// that comes again costs nothing. May be used from several threads.
#pragma once

#include <list>
#include <mutex>
#include <optional>
#include <string>

#include "engine/engine.h"
#include "server/constraint_request.h"

namespace moebius {

class Constraints {
 public:
  explicit Constraints(const Engine& engine) : engine_(engine) {}  // which outlives this

  // Leaves `out` null where anything may be answered. An error names the field and what cannot be kept.
  std::optional<ApiError> find(const ConstraintRequest& asked, const ToolRequest& tools,
                               std::shared_ptr<const Constraint>& out);

 private:
  struct Kept {
    std::string key;
    std::shared_ptr<const Constraint> constraint;
  };
  Result<std::shared_ptr<const Constraint>> compile(const ConstraintRequest& asked,
                                                    const ToolRequest& tools) const;
  std::shared_ptr<const Constraint> kept(const std::string& key);
  void keep(const std::string& key, std::shared_ptr<const Constraint> constraint);

  const Engine& engine_;
  std::mutex mutex_;
  std::list<Kept> kept_;  // the one used last comes first
};

}  // namespace moebius
