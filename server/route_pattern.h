// A pattern is a path of which a segment may be a name in braces: "/v1/responses/{id}/cancel". {id} stands
// for one segment that is not empty, {id*} at the end for all that follows.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moebius {

// Whether the path is of the pattern; fills the arguments then.
bool match_pattern(std::string_view pattern, std::string_view path, std::vector<std::string>& arguments);

}  // namespace moebius
