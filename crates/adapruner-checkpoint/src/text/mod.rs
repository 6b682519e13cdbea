//! Text files and named sets as token windows.
