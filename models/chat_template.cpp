#include "models/chat_template.h"

#include <new>

#include <fmt/core.h>

#include "models/jinja/interpreter.h"
#include "models/jinja/parser.h"
#include "models/jinja/text.h"

namespace moebius {
namespace {

// One line, whatever a template puts into its message.
Status one_line(const jinja::Error& error, int line) {
  std::string message =
      fmt::format("chat template, line {}: {}", error.line != 0 ? error.line : line, error.message);
  for (char& c : message) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return {error.code, std::move(message)};
}

}  // namespace

struct ChatTemplate::Impl {
  jinja::Body body;
  TemplateLimits limits;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;

Result<std::unique_ptr<ChatTemplate>> ChatTemplate::parse(std::string_view source, TemplateLimits limits) {
  if (!jinja::valid_utf8(source)) return invalid("chat template: the file is not UTF-8 text");
  try {
    auto impl = std::make_unique<Impl>();
    impl->body = jinja::Parser(jinja::tokenize(source), limits.depth).parse();
    impl->limits = std::move(limits);
    return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(impl)));
  } catch (const jinja::Error& error) {
    return one_line(error, 1);
  } catch (const std::bad_alloc&) {
    return no_memory("chat template: no memory left while parsing");
  }
}

Result<std::string> ChatTemplate::render(const nlohmann::ordered_json& variables) const {
  if (!variables.is_object()) return invalid("chat template: the variables must be a JSON object");
  jinja::Interpreter interpreter(impl_->limits);
  try {
    return interpreter.render(impl_->body, variables);
  } catch (const jinja::Error& error) {
    return one_line(error, interpreter.heap.line);
  } catch (const std::bad_alloc&) {
    return no_memory("chat template: no memory left while rendering");
  }
}

}  // namespace moebius
