namespace moebius {}
