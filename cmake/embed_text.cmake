# cmake -DIN=FILE -DOUT=FILE.cpp -DNAME=kName -P embed_text.cmake: a text as a constant of the program. Where it says
# /* include NAME */, the file of that name beside it stands.
file(READ ${IN} text)
string(REGEX MATCHALL "/\\* include [a-z.]+ \\*/" includes "${text}")
foreach(include ${includes})
  string(REGEX REPLACE "/\\* include ([a-z.]+) \\*/" "\\1" name "${include}")
  get_filename_component(folder ${IN} DIRECTORY)
  file(READ ${folder}/${name} part)
  string(REPLACE "${include}" "${part}" text "${text}")
endforeach()
file(WRITE ${OUT} "#include <string_view>

namespace moebius {

extern const std::string_view ${NAME};
const std::string_view ${NAME} = R\"EMBEDDED(${text})EMBEDDED\";

}  // namespace moebius
")
