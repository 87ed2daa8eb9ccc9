# cmake -DIN=FILE -DOUT=FILE.cpp -DNAME=kName -P embed_text.cmake: a text as a constant of the program.
file(READ ${IN} text)
file(WRITE ${OUT} "#include <string_view>

namespace moebius {

extern const std::string_view ${NAME};
const std::string_view ${NAME} = R\"EMBEDDED(${text})EMBEDDED\";

}  // namespace moebius
")
