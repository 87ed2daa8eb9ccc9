// Bytes of a mapped file and the memory that they take. All but read_in() are hints to the system, which it
// may or may not take: nothing else changes.
#pragma once

#include <cstddef>

namespace moebius {

// They will be read soon: starts to bring them from disk, and does not wait.
void will_need(const void* data, size_t bytes);
// They will not be read for long: their memory may go to something else. Pages shared with other bytes stay.
void give_up(const void* data, size_t bytes);
// Whether most of their pages are in memory now; true where the system does not say.
bool in_memory(const void* data, size_t bytes);

// Brings them into memory, in large pages where the system can, and waits. False: some cannot be read.
bool read_in(const void* data, size_t bytes);

}  // namespace moebius
