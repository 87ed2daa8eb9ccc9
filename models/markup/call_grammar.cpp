#include "models/markup/call_grammar.h"

#include <algorithm>

#include <fmt/format.h>

#include "models/constraint/program.h"
#include "models/constraint/regex.h"
#include "models/file_io.h"

namespace moebius {

namespace {

const Schema* properties_of(const Schema& parameters) {
  const auto found = parameters.is_object() ? parameters.find("properties") : parameters.end();
  return parameters.is_object() && found != parameters.end() && found->is_object() ? &*found : nullptr;
}

bool is_text(const Schema& property) {
  if (!property.is_object()) return false;
  const auto type = property.find("type");
  if (type != property.end()) return *type == "string";
  const auto values = property.find("enum");
  return values != property.end() && values->is_array() && !values->empty() &&
         std::all_of(values->begin(), values->end(), [](const Schema& v) { return v.is_string(); });
}

class CallGrammar {
 public:
  CallGrammar(JsonText& text, const ChatMarkup& markup) : t_(text), g_(text.grammar()), m_(markup) {}

  Result<ExprId> calls(const CallRules& rules) {
    std::vector<ExprId> one;
    for (const CallableFunction& function : rules.functions) {
      const bool spellable = std::all_of(function.name.begin(), function.name.end(), [](unsigned char c) {
        return c > ' ' && c != '"' && c != '\\' && c != '<' && c != '`' && c != 0x7F;
      });
      if (function.name.empty() || !spellable)
        return unsupported(
            fmt::format("the function name `{}` cannot be written in a call", printable(function.name, 60)));
      one.push_back(call(function));
    }
    if (!g_.status().ok()) return g_.status();
    const ExprId call = g_.choice(std::move(one));
    const ExprId between = m_.call_lines ? g_.literal("\n") : g_.empty();
    const ExprId more = g_.repeat(g_.sequence({between, call}), 0, rules.parallel ? kNoMaximum : 0);
    const ExprId all = rules.parallel ? g_.sequence({call, more}) : call;
    if (m_.section_begin.empty()) return all;
    return g_.sequence({g_.token(m_.section_begin[0]), all, g_.token(m_.section_end[0])});
  }

 private:
  ExprId call(const CallableFunction& f) {
    const ExprId begin = g_.token(m_.call_begin), end = g_.token(m_.call_end);
    const ExprId separator = g_.token(m_.separator);
    switch (m_.calls) {
      case CallForm::kKimi: {
        const ExprId index = g_.repeat(g_.one_of({{'0', '9'}}), 1, 3);
        return g_.sequence(
            {begin, g_.literal("functions." + f.name + ":"), index, separator, arguments(f), end});
      }
      case CallForm::kDeepSeek:
        if (m_.json_block)
          return g_.sequence({begin, g_.literal("function"), separator, g_.literal(f.name + "\n```json\n"),
                              arguments(f), g_.literal("\n```"), end});
        return g_.sequence({begin, g_.literal(f.name), separator, arguments(f), end});
      case CallForm::kGlm:
        return g_.sequence({begin, g_.literal(f.name), line(), glm_arguments(f), end});
      case CallForm::kJson: {
        const ExprId edge = m_.call_lines ? g_.literal("\n") : g_.empty();
        return g_.sequence({begin, edge, g_.literal("{\"name\": \"" + f.name + "\", \"arguments\": "),
                            arguments(f), g_.literal("}"), edge, end});
      }
      case CallForm::kNone:
        break;
    }
    return g_.never();
  }

  ExprId line() { return g_.optional(g_.literal("\n")); }

  // Whether a schema can be kept, by a grammar of its own.
  static Status try_schema(const Schema& document, const Schema& part) {
    Grammar trial;
    JsonText text(trial);
    MOEBIUS_ASSIGN(const ExprId root, add_json_schema(text, document, &part));
    trial.set_root(root);
    return Program::compile(trial).status();
  }

  bool kept(const CallableFunction& f, const Schema& part) {
    const Status status = try_schema(f.parameters, part);
    if (!status.ok() && f.strict) {
      g_.fail({status.code(), fmt::format("the parameters of the strict function `{}` cannot be kept: {}",
                                          f.name, status.message())});
    }
    return status.ok();
  }

  ExprId schema(const Schema& document, const Schema& part) {
    const Result<ExprId> out = add_json_schema(t_, document, &part);
    return out.ok() ? *out : g_.never();  // it was tried
  }

  ExprId arguments(const CallableFunction& f) {
    if (f.parameters.is_null()) return g_.sequence({g_.literal("{"), t_.space(), g_.literal("}")});
    if (!kept(f, f.parameters)) return t_.object();
    // Arguments are an object, also where the schema does not insist on it.
    const bool is_object =
        f.parameters.is_object() && f.parameters.contains("type") && f.parameters["type"] == "object";
    return is_object || f.strict ? schema(f.parameters, f.parameters) : t_.object();
  }

  ExprId glm_argument(ExprId key, ExprId value) {
    return g_.sequence({g_.token(m_.key_begin), key, g_.token(m_.key_end), line(), g_.token(m_.value_begin),
                        value, g_.token(m_.value_end), line()});
  }

  // Not JSON but its parts: texts as they are.
  ExprId glm_value(const CallableFunction& f, const Schema& property) {
    if (!is_text(property)) return kept(f, property) ? schema(f.parameters, property) : t_.value();
    if (property.contains("enum")) {
      std::vector<std::string> texts;
      for (const Schema& v : property["enum"]) {
        if (v.is_string()) texts.push_back(v.get<std::string>());
      }
      return g_.any_of(std::move(texts));
    }
    if (property.contains("const") && property["const"].is_string())
      return g_.literal(property["const"].get<std::string>());
    if (!kept(f, property)) return g_.repeat(g_.one_of(CharSet::all()), 0, kNoMaximum);
    // What was kept as JSON can be kept as text.
    const char* format =
        property.contains("format") ? json_format_pattern(property["format"].get<std::string>()) : nullptr;
    const std::string pattern = property.contains("pattern") ? property["pattern"].get<std::string>()
                                : format                     ? format
                                                             : "";
    const auto length = [&](const char* key, int64_t absent) {
      return property.contains(key) ? static_cast<int64_t>(property[key].get<double>()) : absent;
    };
    const int64_t min = length("minLength", 0), max = length("maxLength", kNoMaximum);
    if (pattern.empty()) return g_.repeat(g_.one_of(CharSet::all()), min, max);
    const Result<RegexExpr> regex = add_regex(g_, pattern, {.search = true});
    if (!regex.ok()) return g_.never();  // it was tried
    if (!regex->single) return regex->expr;
    const int64_t most = regex->max == kNoMaximum ? max
                         : max == kNoMaximum      ? regex->max
                                                  : std::min(max, regex->max);
    return g_.repeat(regex->expr, std::max(min, regex->min), most);
  }

  ExprId glm_arguments(const CallableFunction& f) {
    if (f.parameters.is_null()) return g_.empty();
    const Schema* properties = properties_of(f.parameters);
    if (f.strict) kept(f, f.parameters);
    if (properties == nullptr) {
      const ExprId text = g_.repeat(g_.one_of(CharSet::all()), 0, kNoMaximum);
      return g_.repeat(glm_argument(text, text), 0, kNoMaximum);
    }
    const auto required = f.parameters.find("required");
    std::vector<ExprId> parts;
    for (const auto& [name, property] : properties->items()) {
      const ExprId one = glm_argument(g_.literal(name), glm_value(f, property));
      const bool needed = required != f.parameters.end() && required->is_array() &&
                          std::find(required->begin(), required->end(), name) != required->end();
      parts.push_back(needed ? one : g_.optional(one));
    }
    return g_.sequence(std::move(parts));
  }

  JsonText& t_;
  Grammar& g_;
  const ChatMarkup& m_;
};

}  // namespace

Result<ExprId> add_calls(JsonText& text, const ChatMarkup& markup, const CallRules& rules) {
  return CallGrammar(text, markup).calls(rules);
}

std::shared_ptr<const TextArguments> text_arguments(const CallRules& rules) {
  auto out = std::make_shared<TextArguments>();
  for (const CallableFunction& function : rules.functions) {
    const Schema* properties = properties_of(function.parameters);
    if (properties == nullptr) continue;
    for (const auto& [name, property] : properties->items()) {
      if (is_text(property)) (*out)[function.name].insert(name);
    }
  }
  return out;
}

}  // namespace moebius
