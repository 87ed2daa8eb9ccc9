// Bytes of a mapped file and the memory that they take. All but read_in() are hints to the system, which it
// may or may not take: nothing else changes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moebius {

// They will be read soon: starts to bring them from disk, and does not wait.
void will_need(const void* data, size_t bytes);
// They will not be read for long: their memory may go to something else. Pages shared with other bytes stay.
void give_up(const void* data, size_t bytes);
// Whether most of their pages are in memory now; true where the system does not say.
bool in_memory(const void* data, size_t bytes);

// They would rather be read and mapped in large pages, of kLargePage bytes: of small ones a processor knows
// too few, and reads 20 to 40 % slower.
void prefer_large_pages(const void* data, size_t bytes);

// Brings them into memory, and waits. False: some cannot be read.
bool read_in(const void* data, size_t bytes);

constexpr size_t kLargePage = size_t{2} << 20;
// Whether the whole large pages among them are mapped as such; false where the system does not say.
bool in_large_pages(const void* data, size_t bytes);
// Turns the whole large pages among them, which begin at `offset` of `file`, into memory of the process, no
// longer shared, with the same content at the same addresses: other threads may read them meanwhile. False:
// the file cannot be read, there is no memory, or the system gives no large pages; all is as it was.
bool copy_to_large_pages(int file, int64_t offset, const void* data, size_t bytes);

}  // namespace moebius
