/** A schema's text; the bundler puts it in. */
declare module '*.graphql' {
  const text: string
  export default text
}
