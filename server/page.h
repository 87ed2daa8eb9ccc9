// The page at `/`: one file of HTML, server/page/index.html, that is part of the program. What it may do is
// bounded by its Content-Security-Policy: its own script and style, by their hashes, and requests to this
// server.
#pragma once

#include <string>
#include <string_view>

namespace moebius {

extern const std::string_view kPageHtml;  // made from the file by CMake

// The policy of a page whose only script and style stand between <script>, <style> and their ends.
std::string content_security_policy(std::string_view html);

}  // namespace moebius
