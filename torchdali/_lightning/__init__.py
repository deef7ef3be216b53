"""What the data modules and callbacks for both of Lightning's libraries have in common."""
