// Child: one run of this program beside the server.
//
// It has a lower priority, a budget for the memory it writes to, no open file of the server's and no key that
// is pressed at the server's terminal. No shell is involved.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/status.h"

namespace moebius {

struct ChildOptions {
  std::string program;                 // its path
  std::vector<std::string> arguments;  // after the program's name
  std::string output;                  // file to which stdout and stderr are appended
  int kept_open = -1;        // a descriptor that the child holds too, as number 3: for its lock; -1: none
  int nice = 10;             // added to the server's
  int64_t memory_bytes = 0;  // of private memory, mapped files not counted; 0: no limit
};

class Child {
 public:
  static Result<std::unique_ptr<Child>> start(const ChildOptions& options);
  ~Child();  // kills it

  void signal(int number) const;
  // What it ended with: an exit code, or minus the number of a signal. nullopt: it runs.
  std::optional<int> ended();
  pid_t id() const { return pid_; }

 private:
  explicit Child(pid_t pid) : pid_(pid) {}
  const pid_t pid_;
  std::optional<int> ended_;
};

}  // namespace moebius
