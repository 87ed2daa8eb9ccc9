// SchemaCompiler: the parts of add_json_schema.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "models/constraint/json_schema.h"

namespace moebius {

class SchemaCompiler {
 public:
  SchemaCompiler(JsonText& text, const Schema& document)
      : t_(text), g_(text.grammar()), document_(document) {}
  Result<ExprId> compile(const Schema& part);

 private:
  // Where a schema stands: a JSON pointer for messages, and how deep.
  struct Place {
    std::string pointer = "#";
    int depth = 0;
    Place at(std::string_view key) const {
      return {pointer + "/" + std::string(key.substr(0, 60)), depth + 1};
    }
  };

  ExprId schema(const Schema& s, const Place& place);
  ExprId typed(const Schema& s, const Place& place);
  ExprId reference(const Schema& s, const Place& place);
  ExprId all_of(const Schema& s, const Place& place);
  ExprId alternatives(const Schema& s, const char* key, const Place& place);
  ExprId values(const Schema& s, const Place& place);  // enum and const
  ExprId value(const Schema& v);
  ExprId string(const Schema& s, const Place& place);
  ExprId pattern(const std::string& regex, int64_t min, int64_t max, const Place& place);
  ExprId object(const Schema& s, const Place& place);
  ExprId array(const Schema& s, const Place& place);
  ExprId unique_list(const Schema& s, int64_t min, int64_t max, const Place& place);
  ExprId number(const Schema& s, bool whole, const Place& place);
  NumberRange range(const Schema& s, const Place& place);

  struct Member {
    ExprId text = 0;
    bool required = false;
  };
  bool read_members(const Schema& s, const Place& place, std::vector<Member>& members, ExprId& more);
  ExprId pattern_member(const Schema& s, const Place& place);
  ExprId members(const std::vector<Member>& all, ExprId more);  // more: never() for none
  ExprId counted_members(const std::vector<Member>& all, ExprId more, int64_t min, int64_t max);

  bool refuse_keywords(const Schema& s, const Place& place);
  const Schema* resolve(const Schema& s, const Place& place);  // follows $ref; null: it failed
  const Schema* find(const std::string& pointer) const;
  // Both schemas as one; a failure where they restrict the same thing.
  Schema merged(const Schema& a, const Schema& b, const Place& place);
  bool exclude_each_other(const Schema& a, const Schema& b, const Place& place, int depth);
  unsigned types_of(const Schema& s) const;
  int64_t count(const Schema& s, const char* key, int64_t absent, const Place& place);
  void wrong(const Place& place, std::string_view what);
  void refuse(const Place& place, std::string_view what);

  JsonText& t_;
  Grammar& g_;
  const Schema& document_;
  std::map<std::string, RuleId> references_;
  std::vector<std::pair<std::string, RuleId>> waiting_;
  int merges_ = 0;
};

}  // namespace moebius
